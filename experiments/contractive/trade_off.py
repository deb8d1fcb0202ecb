"""Reconstruction against contraction over lambda, and how the units saturate."""

import numpy as np

from experiments.common import plots
from experiments.common.results.claims import Claim, brief, percent, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.contractive.networks import Trained

AE_LEVEL = plots.Look(plots.METHODS["AE"].color, "--")


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the scores of the methods, and of all CAEs with tied and with untied weights."""
    sweep = {
        kind: [{"weight": weight, **own.scores} for weight, own in row.items()]
        for kind, row in trained.sweep.items()
    }
    return {"sweep": sweep, "methods": {name: own.scores for name, own in trained.methods.items()}}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figures."""
    draw_sweep(run, found)
    draw_trade(run, found)


def draw_sweep(run: ExperimentRun, found: Metrics) -> None:
    """Writes error, Jacobian norm and saturation of the CAE over lambda."""
    rows, ae, weights = found["sweep"]["tied"], found["methods"]["AE"], found["weights"]
    panels = []
    for name, label, scale in (
        ("test_mse", "test MSE per pixel", "linear"),
        ("jacobian_norm", "squared Jacobian norm per example", "log"),
        ("saturated_share", "share of saturated units", "linear"),
    ):
        lines = [
            plots.line("CAE", weights, [row[name] for row in rows], plots.METHODS["CAE"]),
            plots.plain("AE (lambda = 0)", weights, [ae[name]["mean"]] * len(weights), AE_LEVEL),
        ]
        panels.append(plots.Panel("lambda", label, lines, ("log", scale), weights))
    run.draw(plots.panels, "weights.png", panels, title="The contractive autoencoder over lambda")


def draw_trade(run: ExperimentRun, found: Metrics) -> None:
    """Writes the error against the Jacobian norm."""
    rows, methods, weights = found["sweep"]["tied"], found["methods"], found["weights"]
    norms, errors = ([row[n]["mean"] for row in rows] for n in ("jacobian_norm", "test_mse"))
    path = [plots.plain("CAE", norms, errors, plots.METHODS["CAE"])]
    for method in ("AE", "DAE"):
        point = methods[method]
        at = [point["jacobian_norm"]["mean"]], [point["test_mse"]["mean"]]
        path.append(plots.plain(method, *at, plots.METHODS[method]))
    notes = [(x, y, f"{weight:g}") for x, y, weight in zip(norms, errors, weights, strict=True)]
    labels = ("squared Jacobian norm per example", "test MSE per pixel")
    trade = plots.Panel(*labels, path, ("log", "linear"), annotations=notes)
    title = "Error against contraction, lambda beside"
    run.draw(plots.panels, "trade.png", [trade], title=title)


def claims(found: Metrics) -> list[Claim]:
    """Returns what is said of the loss over lambda, and of saturation."""
    return [trade_claim(found), saturation_claim(found)]


def trade_claim(found: Metrics) -> Claim:
    """Holds if the Jacobian norm falls and the error rises with lambda, in every seed."""
    rows = [found["methods"]["AE"], *found["sweep"]["tied"]]
    norms, errors = values_over_seeds(rows, "jacobian_norm"), values_over_seeds(rows, "test_nll")
    holds = bool((np.diff(norms, axis=0) < 0).all() and (np.diff(errors, axis=0) > 0).all())
    last, ae, cae = rows[-1], rows[0], found["methods"]["CAE"]
    weight, at_weight = found["weight"], ""
    if weight != last["weight"]:
        numbers = f"{shown(cae['jacobian_norm'])} and {shown(cae['test_mse'])}"
        at_weight = f"At lambda = {weight:g} they are {numbers}. "
    return Claim(
        "The contractive autoencoder minimises the reconstruction error plus lambda times the "
        "squared Frobenius norm of the Jacobian of the encoder.",
        f"From no penalty to lambda = {last['weight']:g} the squared Jacobian norm of a test "
        f"example goes from {shown(ae['jacobian_norm'])} to {shown(last['jacobian_norm'])} and "
        f"the test MSE per pixel from {shown(ae['test_mse'])} to {shown(last['test_mse'])}. "
        + at_weight
        + "A trade, "
        + ("monotone in every seed." if holds else "but not monotone in every seed."),
        verdict(holds),
        {
            "squared Jacobian norm, AE": ae["jacobian_norm"],
            "squared Jacobian norm, CAE": cae["jacobian_norm"],
            "test MSE, AE": ae["test_mse"],
            "test MSE, CAE": cae["test_mse"],
        },
        "weights.png",
        "Three panels against lambda: the test error, the squared Jacobian norm and the share of "
        "saturated units of the CAE; a dashed line is the plain autoencoder.",
        anchor="contractive-objective",
        plain=sentence(
            "The strongest penalty leaves {norm} of the squared Jacobian norm and multiplies the "
            "squared error by {times}.",
            norm=percent(ratio(last["jacobian_norm"], ae["jacobian_norm"])),
            times=brief(ratio(last["test_mse"], ae["test_mse"])),
        ),
        caption="Against the strength of the penalty: the test error, the squared Jacobian norm, "
        "and the share of saturated units. Dashed: the autoencoder without the penalty.",
        formula=r"L(x, \text{dec}(\text{enc}(x))) + \lambda \left\| "
        r"\frac{\partial\, \text{enc}(x)}{\partial x} \right\|_F^2",
        more={
            "trade.png": (
                "Test error against the squared Jacobian norm on a logarithmic axis, one point "
                "for each lambda."
            ),
        },
    )


def saturation_claim(found: Metrics) -> Claim:
    """Holds if the CAE saturates more than the AE; corrected where it is not monotone."""
    rows, ae = found["sweep"]["tied"], found["methods"]["AE"]
    cae = found["methods"]["CAE"]
    holds = (
        values_over_seeds([cae], "saturated_share") > values_over_seeds([ae], "saturated_share")
    ).all()
    most = max(rows, key=lambda row: row["saturated_share"]["mean"])
    turns = most is not rows[-1]
    entries = found["code_dim"] * found["inputs"]
    per_entry = {
        name: 1e4 * row["jacobian_norm"]["mean"] / entries
        for name, row in (("AE", ae), ("CAE", cae))
    }
    return Claim(
        "Sigmoid CAEs tend to saturate.",
        f"At lambda = {found['weight']:g} the share of saturated units is "
        f"{shown(cae['saturated_share'])}, without penalty {shown(ae['saturated_share'])}. "
        + (
            f"It is largest at lambda = {most['weight']:g} ({shown(most['saturated_share'])}) and "
            f"falls beyond, where the norm of the weights goes from {shown(most['encoder_norm'])} "
            f"to {shown(rows[-1]['encoder_norm'])}. "
            if turns
            else ""
        )
        + "Rifai et al. print 86 % for the CAE and 50 % for the AE, and 0.73 and 17.5 x 1e-4 as "
        f"average squared Jacobian entry; here {per_entry['CAE']:.2g} and {per_entry['AE']:.2g} "
        f"x 1e-4, with {found['code_dim']} units instead of 1000, so the sizes do not compare.",
        verdict(bool(holds), corrects=turns),
        {
            "saturated units, AE": ae["saturated_share"],
            "saturated units, CAE": cae["saturated_share"],
            "most over lambda": most["saturated_share"],
        },
        "weights.png",
        "Right panel: the share of saturated units of the CAE against lambda; a dashed line is "
        "the plain autoencoder.",
        anchor="contractive-saturation",
        plain=sentence(
            "With the penalty {with_it} of the sigmoid units are saturated, without it {without}.",
            with_it=percent(cae["saturated_share"]["mean"]),
            without=percent(ae["saturated_share"]["mean"]),
        ),
        caption="Look at the panel on the right: the share of saturated units against the strength "
        "of the penalty. Dashed: without the penalty.",
        source="Rifai et al. 2011 and the Deep Learning book say",
    )
