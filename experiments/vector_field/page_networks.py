"""The networks that the lecture's page lets its reader play with."""

import numpy as np

from experiments.common.results.networks_file import KeptNetwork
from experiments.common.run.experiment import ExperimentRun
from experiments.vector_field.grid import HALF_WIDTH
from experiments.vector_field.networks import Trained


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps a network for each density and noise level for the lecture's page."""
    kept, nodes = [], {}
    for name, field in trained.fields.items():
        nodes[f"nodes/{name}"] = np.asarray(field.density.nodes, np.float32)
        drawn = {field.stddev: field.params[-1]}  # the network of the figures
        for stddev, params in sorted((field.others | drawn).items()):
            about = {"density": name, "spread": field.density.spread, "noise_stddev": stddev}
            kept.append(KeptNetwork(f"{name}_noise-{stddev:g}", params, about))
    activations = {"activation": "tanh", "code_activation": "tanh", "output_activation": "linear"}
    run.keep_networks(kept, {"half_width": HALF_WIDTH, **activations}, nodes)
