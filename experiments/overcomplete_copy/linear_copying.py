"""Without a regulariser an overcomplete autoencoder copies, a linear one too."""

from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics
from experiments.common.run.experiment import ExperimentRun
from experiments.overcomplete_copy.inputs import INPUTS
from experiments.overcomplete_copy.networks import SLOPES, Trained, by_name

LOOKS = dict(zip(INPUTS, (plots.METHODS["AE"], *plots.OTHERS), strict=True))


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the numbers of all networks, and the errors of the plain ones as they learn."""
    results = trained.results.items()
    return {
        "networks": {kind: result.methods for kind, result in results},
        "training": {kind: result.training for kind, result in results},
    }


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the errors of all networks on every kind of input, and some reconstructions."""
    draw_errors(run, found)
    draw_training(run, found)
    draw_pictures(run, trained)


def draw_errors(run: ExperimentRun, found: Metrics) -> None:
    """Draws the errors of all networks on every kind of input."""
    run.draw(
        plots.dots,
        "copying.png",
        {name: [row["relative_error"][x] for x in INPUTS] for name, row in by_name(found).items()},
        LOOKS,
        x_label="relative error ||r(x) - x||² / ||x||², 0 is a copy",
        title="What autoencoders with more code units than inputs copy",
    )


def draw_training(run: ExperimentRun, found: Metrics) -> None:
    """Draws how the errors of the plain autoencoders came about."""
    training = []
    for kind, rows in found["training"].items():
        epochs = [1 + row["epoch"] for row in rows]
        lines = [plots.line(x, epochs, [row[x] for row in rows], LOOKS[x]) for x in INPUTS]
        labels = ("epoch, plus 1", "relative error, 0 is a copy")
        training.append(plots.Panel(*labels, lines, ("log", "log"), title=f"{kind} code"))
    run.draw(plots.panels, "training.png", training, title="Autoencoders without a regulariser")


def draw_pictures(run: ExperimentRun, trained: Trained) -> None:
    """Draws some inputs and what every network makes of them."""
    rows: dict[str, Array] = {"input": trained.probes[0].shown}
    for result in trained.results.values():
        rows |= result.pictures
    run.draw(
        plots.image_rows,
        "reconstructions.png",
        {name: trained.images.pictures(row) for name, row in rows.items()},
        title="Test images, the same turned by 180°, with permuted pixels, and white noise",
        gaps=(1, 1 + len(rows) // 2),
    )


def claims(found: Metrics) -> list[Claim]:
    """Returns what the lecture says about copying, beside what was measured."""
    linear, relu = (found["networks"][kind]["AE"] for kind in SLOPES)
    denoising = found["networks"]["linear"]["DAE"]
    errors, relu_errors = linear["relative_error"], relu["relative_error"]
    holds = all(value < 0.01 for number in errors.values() for value in number["values"]) and all(
        abs(value - 1) < 0.05 for value in linear["noise_left"]["values"]
    )
    return [
        Claim(
            "With a code at least as large as the input, even a linear autoencoder can copy its "
            "input without learning anything useful.",
            "The linear autoencoder reconstructs white noise too, not only images: relative error "
            f"{shown(errors['white noise'])} on noise, {shown(errors['permuted pixels'])} on "
            "permuted pixels, and of the noise added to test images it leaves "
            f"{shown(linear['noise_left'])}. This holds in the span of the training images; beyond "
            "it there is hardly a gradient, and the map stays close to what the initialisation "
            f"made it (relative error {shown(linear['error_beyond_span'])}). The relu network "
            f"copies images with a relative error of {shown(relu_errors['test images'])}, but "
            f"noise only with one of {shown(relu_errors['white noise'])}.",
            verdict(holds),
            {
                "linear AE, error on test images": errors["test images"],
                "linear AE, error on white noise": errors["white noise"],
                "linear AE, noise left": linear["noise_left"],
                "relu AE, error on white noise": relu_errors["white noise"],
            },
            "copying.png",
            "Dot chart of relative errors on a logarithmic axis: a row for each network, in each "
            "row a marker for test images, the same turned, with permuted pixels, and white "
            "noise.",
            anchor="overcomplete-linear-copy",
            plain=sentence(
                "Without a regulariser the linear autoencoder copies even white noise, with a "
                "relative error of {error}; trained to denoise, its error is {denoising}."
                if holds
                else "On white noise the linear autoencoder has a relative error of {error}; "
                "trained to denoise, of {denoising}.",
                error=percent(errors["white noise"]["mean"]),
                denoising=percent(denoising["relative_error"]["white noise"]["mean"]),
            ),
            caption="Each row is a network, each colour a kind of input, each pale marker one "
            "training; the farther left, the more exact the copy. A network that copies rebuilds "
            "white noise (orange) too. AE has no regulariser, sparse an L1 penalty; DAE learned to "
            "denoise, CAE is contractive.",
            formula=r"\text{dec}(\text{enc}(x)) = x",
            take_home=sentence(
                "Without a regulariser, a linear autoencoder whose code is larger than the image "
                "only copies: {noise} of added noise stays."
                if holds
                else "Without a regulariser, a linear autoencoder whose code is larger than the "
                "image leaves {noise} of added noise in it.",
                noise=percent(linear["noise_left"]["mean"]),
            ),
            more={
                "training.png": (
                    "Two panels, linear and relu code: relative errors over the epochs on "
                    "logarithmic axes, a line for each kind of input."
                ),
                "reconstructions.png": (
                    "Rows of pictures: test images, the same turned, with permuted pixels, and "
                    "white noise, and below them what each network makes of them."
                ),
            },
        ),
    ]
