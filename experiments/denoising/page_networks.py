"""The networks that the lecture's page lets its reader play with."""

import numpy as np

import jaxae
from experiments.common.results.networks_file import KeptNetwork
from experiments.common.run.experiment import ExperimentRun
from experiments.denoising.networks import Scored, Trained

KEPT_RANK = 64  # of the linear maps


def keep_networks(run: ExperimentRun, trained: Trained) -> None:
    """Keeps the first seed's networks and best linear maps for the lecture's page."""
    swept_dim, swept = trained.setup.swept_dim, trained.by_noise_level
    others = [own[0] for dim, own in sorted(trained.scored.items()) if dim != swept_dim]
    maps = [kept_linear_map(level, base.best) for level, base in trained.baselines.items()]
    kept = [kept_network(swept[0]), maps[0], *map(kept_network, others)]
    for one, linear_map in zip(swept[1:], maps[1:], strict=True):
        kept += [kept_network(one), linear_map]
    about = {
        "corruption": trained.setup.corruption,
        "code_activation": "linear",
        "output_activation": "sigmoid",
    }
    run.keep_networks(kept, about)


def kept_network(scored: Scored) -> KeptNetwork:
    """Returns a network with its code dimension and its noise level."""
    about = {key: scored.numbers[key] for key in ("code_dim", "noise_level")}
    name = f"dim-{about['code_dim']}_noise-{about['noise_level']:g}"
    return KeptNetwork(name, scored.params, about)


def kept_linear_map(level: float, best: jaxae.LinearDenoiser) -> KeptNetwork:
    """Returns the best linear map at one noise level, for ranks of 64 at most."""
    basis = np.asarray(best.basis)[:, :KEPT_RANK]
    rank = basis.shape[1]
    encoder = np.asarray(best.gain).T @ basis
    params = {  # the map as an autoencoder
        "encoder_kernel_0": encoder,
        "encoder_bias_0": -np.asarray(best.noisy_mean) @ encoder,
        "decoder_kernel_0": basis.T,
        "decoder_bias_0": best.x_mean,
    }
    about = {"rank": rank, "noise_level": level, "output_activation": "linear"}
    return KeptNetwork(f"linear_noise-{level:g}", params, about)
