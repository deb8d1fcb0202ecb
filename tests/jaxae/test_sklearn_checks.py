"""scikit-learn's own checks of an estimator, for all three."""

import pytest
from jax_settings import as_on_the_command_line
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxae.sklearn import ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder

ESTIMATORS = [
    # A batch of all rows: a smaller last batch would be compiled as a second step.
    estimator(n_components=2, max_iter=2, batch_size=1000, random_state=0)
    for estimator in (DenoisingAutoencoder, SparseAutoencoder, ContractiveAutoencoder)
]


@pytest.fixture(autouse=True)
def as_users_run_it(no_type_hook):
    """Users have JAX's own settings, and the errors of the estimator, not of the type checker."""
    with as_on_the_command_line():
        yield


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)
