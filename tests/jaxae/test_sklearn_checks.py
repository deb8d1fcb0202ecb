"""scikit-learn's own checks of an estimator, for all three."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxae.sklearn import ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder

ESTIMATORS = [
    # A batch of all rows: a smaller last batch would be compiled as a second step.
    estimator(n_components=2, max_iter=2, batch_size=1000, random_state=0)
    for estimator in (DenoisingAutoencoder, SparseAutoencoder, ContractiveAutoencoder)
]
# Wrong parameters are passed on purpose, and the errors shall be those of the estimator.
pytestmark = pytest.mark.usefixtures("no_type_hook")


@pytest.mark.thorough  # each check trains on data of its own shapes; test_sklearn.py always runs
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)
