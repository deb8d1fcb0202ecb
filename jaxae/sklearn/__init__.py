"""Estimators for scikit-learn: an autoencoder for people who have a table and no training loop.

They work in a ``Pipeline`` and in ``GridSearchCV``. The losses, the noise and the training are
those of :mod:`jaxae`. ``import jaxae`` does not import this package, since scikit-learn is an
extra: ``pip install "jaxae[sklearn]"``.
"""

from jaxae.sklearn.estimators import (
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
)

__all__ = ["ContractiveAutoencoder", "DenoisingAutoencoder", "SparseAutoencoder"]
