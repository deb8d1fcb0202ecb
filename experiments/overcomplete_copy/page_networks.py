"""The networks that the lecture's page lets its reader play with."""

import numpy as np

from experiments.common.data.datasets import Dataset
from experiments.common.results.networks_file import KeptNetwork
from experiments.common.run.experiment import ExperimentRun
from experiments.overcomplete_copy.networks import Trained


def keep_networks(run: ExperimentRun, dataset: Dataset, trained: Trained) -> None:
    """Keeps the first seed's networks of every method, with a relu and with a linear code."""
    kept = [
        KeptNetwork(
            f"{variant.kind}_{variant.method}",
            params,
            {"code_activation": variant.kind, "method": variant.method},
        )
        for variant, params in trained.params.items()
    ]
    kept.sort(key=lambda network: network.about["code_activation"] != "relu")  # wanted most
    images = trained.images
    shown = images.pictures(images.test[dataset.one_of_each_class()])
    arrays = {
        "examples": shown.reshape(len(shown), -1).astype(np.float16),
        "mean": images.mean.astype(np.float32),
        "span": images.axes[:, : images.in_span].astype(np.float32),
    }
    about = {
        "shape": images.shape,
        "scale": images.scale,
        "tied": True,
        "output_activation": "linear",
    }
    run.keep_networks(kept, about, arrays)
