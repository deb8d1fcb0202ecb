"""The algorithm: the flow chart of the network, and how much of the noise it removes."""

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.denoising.networks import Trained
from experiments.denoising.scores import error, noise_error


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns nothing: the numbers are those of the noise levels."""
    return {}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the flow chart around a test image."""
    pictures = trained.by_noise_level[0].pictures
    images = {name: pictures[name][0] for name in ("clean", "noisy", "denoised")}
    run.draw(plots.flow_chart, "flow_chart.png", code=pictures["code"], **images)


def claims(found: Metrics) -> list[Claim]:
    """Holds if the network denoises better than the best linear map of the same rank."""
    swept, kind = found["by_noise_level"][0], found["corruption"]
    return [
        Claim(
            "Algorithm 1: sample an example, corrupt it, and train to reconstruct the clean "
            "example from the corrupted one.",
            f"On test images with {kind} noise of level {swept['noise_level']:g} a code of "
            f"{swept['code_dim']} numbers leaves a squared error of {shown(error(swept))} per "
            f"pixel of the {shown(noise_error(swept))} that the noise made; the best linear map of "
            f"that rank leaves {shown(swept['linear']['test_mse'])}. Noise is drawn afresh at "
            "every step; drawn once, as in the lecture's code, part of it is learned by heart.",
            verdict(error(swept)["mean"] < swept["linear"]["test_mse"]["mean"]),
            {
                "denoised": error(swept),
                "best linear map": swept["linear"]["test_mse"],
                "corrupted input": noise_error(swept),
            },
            "flow_chart.png",
            "A flow chart: a clean image, the same image under noise, an encoder, a narrow strip "
            "of code values, a decoder, the image reconstructed without the noise; the loss "
            "compares it with the clean one.",
            anchor="denoising-algorithm",
            plain=sentence(
                "The autoencoder leaves {denoised} of the squared error that the noise made; the "
                "best linear map leaves {linear}.",
                denoised=percent(ratio(error(swept), noise_error(swept))),
                linear=percent(ratio(swept["linear"]["test_mse"], noise_error(swept))),
            ),
            caption="From left to right: a clean image, the same image under noise, its code, and "
            "the reconstruction. The loss compares the reconstruction with the clean image.",
            formula=r"x \sim p(x), \quad \tilde x \sim C(\tilde x \mid x), \quad "
            r"\min L(x, \text{dec}(\text{enc}(\tilde x)))",
            take_home=sentence(
                "A denoising autoencoder learns to rebuild the clean image: at noise level {level} "
                "its output has {denoised} of the noisy image's squared error.",
                level=brief(swept["noise_level"]),
                denoised=percent(ratio(error(swept), noise_error(swept))),
            ),
        ),
    ]
