"""The vector field that a denoising autoencoder learns, beside the exact one.

Reproduces the lecture's manifold figures (LMU Munich, Deep Learning, chapter 9) on densities in
the plane for which the best possible reconstruction, the posterior mean E[x | x~], is known in
closed form: a circle, a spiral, and a mixture of Gaussians. The slides claim that
dec(enc(x~)) - x~ points to the nearest point of the manifold, and that dec(enc(x~)) estimates the
centre of mass of the clean points that could have given x~. Here both fields are drawn side by
side, and their distance is a number, near the data and far from them.

    python -m experiments.vector_field        about 3 minutes, 2 cores

Expected relative L2 error of the learned field where the noisy density is above 5 % of its
maximum: circle 0.03, spiral 0.06, mixture 0.04; elsewhere about 0.1.

Model: 2-128-128-128-2, tanh, squared error, Adam with cosine decay from 8e-3, 4,000 steps (spiral
10,000, mixture 8,000) of 256 fresh points and fresh Gaussian noise. Weights and biases start
larger than usual: with Glorot's the network is nearly linear over the square and never finds the
spiral. For the slider of the lecture's page, half and twice the noise have a network each, which
starts from the trained one. Deviation: the slides draw sketches; their densities, noise and
networks are not recorded.
"""

from dataclasses import dataclass
from functools import partial

from experiments.common.results.over_seeds import Metrics
from experiments.common.run import command_line, parts
from experiments.common.run.experiment import ExperimentRun
from experiments.common.run.parts import LecturePart
from experiments.vector_field import (
    centre_of_mass,
    nearest_point,
    networks,
    page_networks,
    way_home,
    zeros,
)

PARTS: tuple[LecturePart[networks.Trained], ...] = (nearest_point, centre_of_mass, way_home, zeros)
claims = partial(parts.claims, PARTS)  # what the lecture says, beside what was measured
EPOCHS = {"circle": 200, "spiral": 500, "mixture": 400}


@dataclass(frozen=True)
class Config(command_line.CommonConfig):
    """Options of the vector-field experiment. Its data are synthetic: --dataset is not used."""

    epochs: command_line.Optional[int] = None
    """Times 20 steps, each on fresh points; by default 200, 500 (spiral) and 400 (mixture)."""
    batch_size: int = 256
    """Points per step."""
    learning_rate: float = 8e-3
    """Step size of Adam at the start; it falls to 0 along a cosine."""


def main(config: Config) -> Metrics:
    """Runs the experiment and returns what ``metrics.json`` holds."""
    epochs = {
        name: config.epochs or (2 if config.quick else default) for name, default in EPOCHS.items()
    }
    num_seeds = config.num_seeds or (1 if config.quick else 3)
    total = sum(
        num_seeds * own + len(networks.OTHER_NOISE) * networks.other_epochs(own)
        for own in epochs.values()
    )
    with ExperimentRun("vector_field", config, None, total=total) as run:
        trained = networks.train(config, epochs, num_seeds, run)
        known = {name: {"noise_stddev": own.stddev} for name, own in trained.fields.items()}
        found = parts.measure(PARTS, run, trained, {"densities": known})
        parts.draw(PARTS, run, trained, found)
        page_networks.keep_networks(run, trained)
        return run.finish({"num_seeds": num_seeds, "epochs_per_density": epochs}, **found)
