"""What second-order optimisers make of a loss whose noise is drawn afresh at every step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import jaxae
from experiments.common import plots
from experiments.common.results.claims import Claim, brief, ratio, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.common.training.arrays import Params
from experiments.dae_vs_cae.networks import Trained
from experiments.dae_vs_cae.optimisers import LOOKS

BUDGET = 600  # gradient evaluations
EARLY = 5  # of the 24 points at which the runs are compared
RUNS = ("Adam, noise resampled", "L-BFGS, noise resampled", "L-BFGS, noise frozen")

Carry = tuple[jaxae.TrainState, Array]  # the state, and the evaluations so far


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns what L-BFGS makes of a DAE whose noise is drawn afresh at every step.

    All are judged by one loss: the mean over 8 corruptions of every example that no optimiser
    has seen. Adam has the step size that was best with frozen noise.
    """
    loss, x = trained.dae_loss, trained.batch

    def descend(
        optimizer: optax.GradientTransformation, steps: int, is_frozen: bool
    ) -> Callable[..., tuple[Array, Array]]:
        step = jaxae.make_train_step(loss, optimizer)

        @jax.jit
        def curve(params: Params, key: Array, x: Array) -> tuple[Array, Array]:
            step_key, judge_key = jax.random.split(key)
            judges = jax.random.split(judge_key, 8)

            def body(carry: Carry, i: Array) -> tuple[Carry, None]:
                state, count = carry
                state, _ = step(state, jax.random.fold_in(step_key, 0 if is_frozen else i), x)
                searched = optax.tree.get(state.opt_state, "num_linesearch_steps", 0)
                return (state, count + 1 + searched), None

            def chunk(carry: Carry, numbers: Array) -> tuple[Carry, tuple[Array, Array]]:
                carry, _ = jax.lax.scan(body, carry, numbers)
                judged = jax.vmap(lambda key: loss(carry[0].params, key, x))(judges).mean()
                return carry, (judged, carry[1])

            carry = (jaxae.create_train_state(params, optimizer), jnp.zeros((), jnp.int32))
            return jax.lax.scan(chunk, carry, jnp.arange(steps).reshape(-1, 10))[1]

        return curve

    curves = {
        "Adam, noise resampled": descend(
            optax.adam(found["optimisers"]["DAE"]["adam_rate"]), BUDGET, False
        ),
        "L-BFGS, noise resampled": descend(jaxae.lbfgs(), BUDGET // 2, False),
        "L-BFGS, noise frozen": descend(jaxae.lbfgs(), BUDGET // 2, True),
    }
    grid = np.geomspace(20, BUDGET, 24)
    result: Metrics = {"evaluations": grid.tolist()}
    for name, curve in curves.items():
        rows = []
        for number, (params, key) in enumerate(trained.starts()):
            judged, count = map(np.asarray, curve(params, key, x))
            rows.append(np.interp(grid, count, judged))
            run.log(name, optimiser=name, seed=number, loss=float(judged[-1]))
        unit = "expected denoising loss, summed over pixels"
        result[name] = [over_seeds(c, unit) for c in np.stack(rows).T.tolist()]
    return {"resampled_noise": result}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    found = found["resampled_noise"]
    names = {
        "Adam, noise resampled": LOOKS["Adam"],
        "L-BFGS, noise resampled": LOOKS["L-BFGS"],
        "L-BFGS, noise frozen": plots.Look(LOOKS["L-BFGS"].color, "--"),
    }
    lines = [
        plots.line(name, found["evaluations"], found[name], look) for name, look in names.items()
    ]
    label = "expected denoising loss"
    panels = [plots.Panel("gradient evaluations", label, lines, ("log", "log"))]
    run.draw(plots.panels, "resampled_noise.png", panels, title="L-BFGS on a noisy objective")


def claims(found: Metrics) -> list[Claim]:
    """Returns the row of the comparison."""
    found = found["resampled_noise"]
    early, final = ({name: found[name][at] for name in RUNS} for at in (EARLY, -1))
    stalls = final[RUNS[1]]["mean"] > final[RUNS[0]]["mean"]
    return [
        Claim(
            "Second-order optimisers need the deterministic gradient: the DAE's is sampled.",
            "On a full batch the noise averages out, so that L-BFGS can work with a fresh draw at "
            f"every step: after {found['evaluations'][EARLY]:.0f} evaluations it is at "
            f"{shown(early[RUNS[1]])}, Adam at {shown(early[RUNS[0]])}; after "
            f"{found['evaluations'][-1]:.0f}, at {shown(final[RUNS[1]])} and "
            f"{shown(final[RUNS[0]])}. "
            + (
                "In the end its line searches compare draws, and it stalls. "
                if stalls
                else "Within this budget the noise of the draws does not stop it. "
            )
            + f"With frozen noise it ends at {shown(final[RUNS[2]])} on fresh noise.",
            verdict(stalls, corrects=early[RUNS[1]]["mean"] < early[RUNS[0]]["mean"]),
            {f"{name}, final loss": number for name, number in final.items()},
            "resampled_noise.png",
            "Three curves of the expected denoising loss against steps: Adam and L-BFGS with "
            "resampled noise, L-BFGS with frozen noise.",
            anchor="comparison-resampled-noise",
            plain=sentence(
                "With fresh noise at every step L-BFGS ends at {resampled} times the loss of Adam; "
                "with frozen noise, at {frozen} times.",
                resampled=brief(ratio(final[RUNS[1]], final[RUNS[0]])),
                frozen=brief(ratio(final[RUNS[2]], final[RUNS[0]])),
            ),
            caption="The loss on fresh noise, against gradient evaluations. The lower, the better; "
            "see who leads early and who leads at the end.",
            source="Not on the slide",
        ),
    ]
