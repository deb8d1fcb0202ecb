"""The networks that the lecture's page lets its reader play with."""

import jax.numpy as jnp
import numpy as np

from experiments.common.results.networks_file import KeptNetwork
from experiments.common.run.experiment import ExperimentRun
from experiments.sparse.networks import Trained


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps the first seed's sparse autoencoder of the figures, and the one without a penalty."""
    setup = trained.setup
    kept = [
        KeptNetwork(f"l1-{setup.weights[i]:g}", trained.params[i], {"weight": setup.weights[i]})
        for i in (setup.chosen, 0)
    ]
    mean = np.asarray(jnp.mean(setup.raw[0], axis=0))  # which is taken off every image
    about = {"code_activation": "relu", "output_activation": "linear"}
    run.keep_networks(kept, about, {"mean": mean})
