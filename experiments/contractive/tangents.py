"""The leading singular vectors of the Jacobian beside known tangents of the data manifold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common import plots
from experiments.common.results.claims import Claim, percent, sentence, shown, verdict
from experiments.common.results.over_seeds import Metrics, rows_over_seeds, values_over_seeds
from experiments.common.run.experiment import ExperimentRun
from experiments.contractive.jacobians import LEADING, jacobian_svd
from experiments.contractive.networks import METHODS, Trained
from experiments.contractive.probes import Probes, image_tangents

TANGENTS = ("shift down", "shift right", "rotation")
DRAWN = 4  # singular vectors in the figure
UNITS = {
    "tangent_share": "share of squared length of shifts and rotations in the leading span",
    "neighbour_share": "share of squared length of displacements to neighbours in that span",
}


def share_in_span(basis: Array, directions: Array) -> Array:
    """Returns the mean share of squared length of ``(n, d)`` in the span of orthonormal rows."""
    inside = jnp.sum(jnp.square(directions @ basis.T), axis=-1)
    lengths = jnp.sum(jnp.square(directions), axis=-1)
    return jnp.sum(inside / jnp.maximum(lengths, 1e-12)) / len(directions)


@jax.jit
def shares(bases: Array, probes: Probes) -> dict[str, Array]:
    """Returns the mean shares of both displacements in the spans at their own examples."""
    directions = {"tangent_share": probes.tangents, "neighbour_share": probes.neighbours}
    each = jax.vmap(share_in_span)
    return {name: jnp.mean(each(bases, of_name)) for name, of_name in directions.items()}


def measure(run: ExperimentRun, trained: Trained, found: Metrics) -> Metrics:
    """Returns the shares in the leading span of each method, and in that of the components."""
    probes = trained.probes
    methods = {
        method: rows_over_seeds(
            [shares(decomposition.vectors, probes) for decomposition in per_seed], UNITS
        )
        for method, per_seed in trained.jacobians.items()
    }
    train, _ = trained.dataset.flat()
    linear = measure_principal_components(train, probes)
    return {"methods": methods, "principal_components": linear}


def measure_principal_components(train: np.ndarray, probes: Probes) -> Metrics:
    """Returns the shares in the span of the leading principal components, the same everywhere."""
    basis = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:LEADING]
    bases = jnp.broadcast_to(jnp.asarray(basis), (len(probes.sample), *basis.shape))
    return rows_over_seeds([shares(bases, probes)], UNITS)


def pictures(trained: Trained) -> dict[str, np.ndarray]:
    """Returns test digits, their tangents and the leading vectors of the first seed's CAE."""
    images = trained.dataset.test[trained.dataset.one_of_each_class()]
    encode = trained.encoder(trained.methods["CAE"].params[0])
    svd = jax.jit(jax.vmap(partial(jacobian_svd, encode)))
    _, vectors = svd(images.reshape(len(images), -1))
    known = image_tangents(images)
    known /= np.maximum(np.linalg.norm(known, axis=-1, keepdims=True), 1e-12)
    rows = {label: known[:, index] for index, label in enumerate(TANGENTS)}
    rows |= {
        f"vector {i + 1}": each
        for i, each in enumerate(np.moveaxis(np.asarray(vectors), 1, 0)[:DRAWN])
    }
    return {"test digit": images} | {name: row.reshape(images.shape) for name, row in rows.items()}


def draw(run: ExperimentRun, trained: Trained, found: Metrics) -> None:
    """Draws the figure."""
    images = pictures(trained)
    title = f"Leading right singular vectors of the CAE's Jacobian (lambda {found['weight']:g})"
    signed = tuple(images)[1:]
    run.draw(plots.image_rows, "tangents.png", images, title=title, gaps=(1, 4), signed=signed)


def claims(found: Metrics) -> list[Claim]:
    """Holds if the leading span has more of both displacements than AE and chance; see PCA."""
    methods, linear = found["methods"], found["principal_components"]
    names = ("tangent_share", "neighbour_share")
    chance = found["leading"] / found["inputs"]
    ae, cae = (np.stack([values_over_seeds([methods[m]], n) for n in names]) for m in ("AE", "CAE"))
    holds = bool(((cae > ae) & (cae > chance)).all())
    beyond = bool((cae.mean((1, 2)) > [linear[name]["mean"] for name in names]).all())
    parts = [", ".join(f"{m} {shown(methods[m][name])}" for m in METHODS) for name in names]
    return [
        Claim(
            "The leading singular vectors of the CAE's Jacobian are the tangent directions of the "
            "manifold.",
            f"Of a small shift or rotation of a test image, the first {found['leading']} right "
            f"singular vectors there hold this share of the squared length: {parts[0]}; random "
            f"directions {chance:.2g}, the global principal components "
            f"{shown(linear['tangent_share'])}. Of the way to the nearest training images: "
            f"{parts[1]}; principal components {shown(linear['neighbour_share'])}. "
            + (
                "They lean towards the tangent space; they do not span it."
                if beyond
                else "They lean towards the tangent space, but not more than the principal "
                "components, which are the same for every image."
            ),
            verdict(holds, corrects=not beyond or float(cae.mean()) < 0.9),
            {f"shifts and rotations, {m}": methods[m][names[0]] for m in METHODS}
            | {f"neighbours, {m}": methods[m][names[1]] for m in METHODS},
            "tangents.png",
            "Ten test images; below each, in blue and red, its derivatives along two shifts and "
            "a rotation, and its four leading singular vectors.",
            anchor="contractive-tangents",
            plain=sentence(
                "The leading directions hold {cae} of a small shift or rotation of an image; the "
                "global principal components hold {linear}.",
                cae=percent(methods["CAE"]["tangent_share"]["mean"]),
                linear=percent(linear["tangent_share"]["mean"]),
            ),
            caption="Below each image: how it changes when it is shifted or turned, and then the "
            "four directions to which its code is most sensitive. Do they look alike?",
            source="The Deep Learning book says (fig. 14.10)",
        )
    ]
