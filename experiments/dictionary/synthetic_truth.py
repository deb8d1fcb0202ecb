"""A synthetic truth as hard as the activations of a network: SynthSAEBench, at any size.

An example is a sum of atoms. Which of them are active is drawn as follows.

1. Rates: atom r fires with a probability that falls as 1 / sqrt(r), from 0.4 to 0.0005 (Zipf).
2. Correlations: it fires where a Gaussian exceeds its quantile, and the Gaussians of all atoms have
   25 factors in common.
3. A forest: each root has four children, and so on, three levels deep. A child is active only with
   its parent, and its strength is scaled by that of the parent; of the children of one parent only
   one is active at a time. The atoms beyond the forest are free.
4. Strengths: a Gaussian of a mean between 5 and 4 and of a spread that differs between atoms.

Everything is drawn on the device from one key, so it can be part of a compiled step. A parent has
at most one active child, so one path down from each root is drawn instead of the whole forest. This
costs less than a step of training. The recipe is that of SAELens, also in how children fire more
often than their rate says, to make up for what the forest takes away. The spreads are
|N(0.5, 0.5)|, which the recipe leaves open.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from experiments.common.training.arrays import unit_rows

HIGHEST_RATE, LOWEST_RATE, EXPONENT = 0.4, 5e-4, 0.5
RANK, FACTOR_SCALE = 25, 0.1
BRANCHING, DEPTH = 4, 3
FIRST_MEAN, LAST_MEAN = 5.0, 4.0
SPREAD_MEAN, SPREAD_STDDEV = 0.5, 0.5
SPREADING_STEPS, SPREADING_RATE = 100, 0.01


class Size(NamedTuple):
    """How large a truth is, and the dictionaries that are trained on it.

    Attributes:
      atoms: of the truth.
      inputs: dimensions of an example.
      roots: trees of the forest.
      units: of a dictionary.
      batch_size: examples per step.
      learning_rate: step size of Adam at the start.
      samples: examples that a dictionary sees.
      targets: numbers of active units.
    """

    atoms: int
    inputs: int
    roots: int
    units: int
    batch_size: int
    learning_rate: float
    samples: int
    targets: tuple[int, ...]


# The smallest at which the methods come in the published order; it takes 4,000 steps.
SMALL = Size(512, 64, 4, 256, 256, 3e-3, 1_000_000, (4, 8))
FULL = Size(16_384, 768, 128, 4096, 1024, 3e-4, 200_000_000, (20, 25, 30))


@dataclass(frozen=True)
class Truth:
    """The atoms and all that says when they are active.

    Attributes:
      atoms: rows of norm 1 ``(m, d)``.
      thresholds: an atom fires where its Gaussian exceeds this ``(m,)``.
      factors: weights of the common factors ``(m, rank)``.
      means: of the strengths ``(m,)``.
      spreads: their standard deviations ``(m,)``.
      roots: trees of the forest.
    """

    atoms: Array
    thresholds: Array
    factors: Array
    means: Array
    spreads: Array
    roots: int


def firing_rates(atoms: int) -> Array:
    """Returns the probability with which each atom would fire alone, the most frequent first."""
    powers = jnp.arange(1, atoms + 1, dtype=jnp.float32) ** -EXPONENT
    scaled = (powers - powers[-1]) / (powers[0] - powers[-1])
    return LOWEST_RATE + (HIGHEST_RATE - LOWEST_RATE) * scaled


def rates_before_the_forest(rates: Array, roots: int) -> Array:
    """Returns how often atoms must fire so that about ``rates`` of them are left by the forest.

    A child is lost where its parent is off, and where a sibling is chosen instead.
    """
    levels, begin, size = [rates[:roots]], 0, roots
    for _ in range(DEPTH):
        parents = rates[begin : begin + size, None]
        begin, size = begin + size, size * BRANCHING
        children = rates[begin : begin + size].reshape(-1, BRANCHING)
        others = children.sum(axis=1, keepdims=True) - children
        needed = children / parents * (1 + others / parents)
        levels.append(jnp.minimum(needed, 1 - LOWEST_RATE).reshape(-1))
    return jnp.concatenate([*levels, rates[begin + size :]])


def make_truth(key: Array, size: Size) -> Truth:
    """Returns a truth of a size."""
    atom_key, factor_key, spread_key = jax.random.split(key, 3)
    factors = FACTOR_SCALE * jax.random.normal(factor_key, (size.atoms, RANK))
    # A variance of 0.01 is left for what is not in common.
    lengths = jnp.linalg.norm(factors, axis=1, keepdims=True)
    factors = factors * jnp.minimum(1, jnp.sqrt(0.99) / lengths)
    spreads = SPREAD_MEAN + SPREAD_STDDEV * jax.random.normal(spread_key, (size.atoms,))
    return Truth(
        atoms=_spread_out(jax.random.normal(atom_key, (size.atoms, size.inputs))),
        thresholds=-jax.scipy.stats.norm.ppf(
            rates_before_the_forest(firing_rates(size.atoms), size.roots)
        ),
        factors=factors,
        means=jnp.linspace(FIRST_MEAN, LAST_MEAN, size.atoms),
        spreads=jnp.abs(spreads),
        roots=size.roots,
    )


@jax.jit
def _spread_out(atoms: Array) -> Array:
    """Returns atoms of norm 1 that were moved apart: the sum of their squared products falls."""

    def overlap(atoms: Array) -> Array:
        products = jnp.inner(unit_rows(atoms), unit_rows(atoms))
        return jnp.sum(products**2)

    adam = optax.adam(SPREADING_RATE)

    def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple, None]:
        atoms, state = carry
        updates, state = adam.update(jax.grad(overlap)(atoms), state)
        return (unit_rows(atoms + updates), state), None

    start = unit_rows(atoms)
    (atoms, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=SPREADING_STEPS)
    return atoms


def draw_examples(truth: Truth, key: Array, count: int) -> tuple[Array, Array]:
    """Returns examples ``(count, d)``, and the strengths ``(count, m)`` of the atoms in them."""
    common_key, roots_key, free_key, forest_key = jax.random.split(key, 4)
    common = jax.random.normal(common_key, (count, truth.factors.shape[1]))
    own_stddev = jnp.sqrt(1 - jnp.sum(truth.factors**2, axis=1))
    limits = (truth.thresholds - common @ truth.factors.T) / own_stddev

    def draw(key: Array, begin: int, end: int) -> Array:
        means, spreads = truth.means[begin:end], truth.spreads[begin:end]
        return _draw_strengths(key, limits[:, begin:end], means, spreads)

    first_free = truth.roots * sum(BRANCHING**level for level in range(DEPTH + 1))
    roots = draw(roots_key, 0, truth.roots)
    free = draw(free_key, first_free, len(truth.atoms))
    between = jnp.zeros((count, first_free - truth.roots), roots.dtype)
    chosen, chosen_strengths = _draw_descendants(truth, forest_key, limits, roots)
    strengths = jnp.concatenate([roots, between, free], axis=1)
    strengths = strengths.at[jnp.arange(count)[:, None], chosen].set(
        chosen_strengths, unique_indices=True
    )
    return strengths @ truth.atoms, strengths


def _draw_strengths(key: Array, limits: Array, means: Array, spreads: Array) -> Array:
    """Returns strengths of atoms, 0 where the own Gaussian of an atom is below its limit."""
    own_key, noise_key = jax.random.split(key)
    own, noise = (jax.random.normal(one, limits.shape) for one in (own_key, noise_key))
    return jnp.where(own > limits, jax.nn.relu(means + spreads * noise), 0)


def _draw_descendants(truth: Truth, key: Array, limits: Array, roots: Array) -> tuple[Array, Array]:
    """Returns the atoms below the roots that may be active, and their strengths.

    The forest lies in the order of the atoms, level by level, children of a parent side by side.
    A parent has at most one active child, so each root has at most one active atom in each level.
    From each root one path is followed down. Atoms beside the paths are not drawn, because the
    forest would take them away whatever their Gaussians were.

    Args:
      truth: the truth.
      key: PRNG key.
      limits: an atom fires where its own Gaussian exceeds this ``(count, m)``.
      roots: strengths of the roots ``(count, roots)``.

    Returns:
      Indices of atoms ``(count, DEPTH * roots)``, and their strengths, 0 where they are off.
    """
    count = len(roots)
    parents, strengths = jnp.broadcast_to(jnp.arange(truth.roots), roots.shape), roots
    begin, size = 0, truth.roots
    found = []
    for level_key in jax.random.split(key, DEPTH):
        strength_key, lot_key = jax.random.split(level_key)
        ratios = strengths / truth.means[parents]
        first = begin + size + BRANCHING * (parents - begin)
        children = first[..., None] + jnp.arange(BRANCHING)  # (count, roots, BRANCHING)
        own_limits = jnp.take_along_axis(limits, children.reshape(count, -1), axis=1)
        drawn = _draw_strengths(
            strength_key,
            own_limits.reshape(children.shape),
            truth.means[children],
            truth.spreads[children],
        )
        lots = jnp.where(drawn > 0, jax.random.uniform(lot_key, drawn.shape), -1)
        position = jnp.argmax(lots, axis=-1)
        parents = first + position
        strengths = ratios * jnp.take_along_axis(drawn, position[..., None], axis=-1)[..., 0]
        found.append((parents, strengths))
        begin, size = begin + size, BRANCHING * size
    chosen, chosen_strengths = zip(*found, strict=True)
    return jnp.concatenate(chosen, axis=1), jnp.concatenate(chosen_strengths, axis=1)
