"""The networks that the lecture's page lets its reader play with."""

from experiments.common.results.networks_file import KeptNetwork
from experiments.common.run.experiment import ExperimentRun
from experiments.contractive.networks import Trained


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps the first seed's autoencoder, as lambda 0, and its tied contractive ones."""
    own = {0.0: trained.methods["AE"], **trained.sweep["tied"]}
    kept = [
        KeptNetwork(f"lambda-{weight:g}", replicates.params[0], {"weight": weight})
        for weight, replicates in own.items()
    ]
    about = {
        "tied": True,
        "code_activation": "sigmoid",
        "output_activation": "sigmoid",  # which makes pixels of the decoder's logits
    }
    run.keep_networks(kept, about)
