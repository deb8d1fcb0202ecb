"""Baselines for the networks: the corrupted input, and the best linear map of each rank."""

import functools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array

import jaxae
from experiments.common.data.datasets import Images
from experiments.common.results.over_seeds import Metrics
from experiments.common.training import fitting
from experiments.denoising.scores import scores_over_seeds
from jaxae.corruption import Corruption


class Baseline(NamedTuple):
    """The baselines at one noise level.

    Attributes:
      corrupted: scores of the corrupted input itself.
      linear: scores of the best linear map, by its rank.
      best: the best linear map with the first seed, of any rank.
    """

    corrupted: Metrics
    linear: dict[int, Metrics]
    best: jaxae.LinearDenoiser


_MOMENTS = jax.jit(jaxae.pair_moments)
_MERGED = jax.jit(jaxae.PairMoments.merged)
_SCORES_OF_INPUT = fitting.make_scores(lambda _, x_i: x_i)


def score(
    keys: Sequence[tuple[Array, Array]],
    corrupt: Corruption,
    train: Images,
    test: Images,
    ranks: Sequence[int],
) -> Baseline:
    """Returns the scores over the seeds at one noise level.

    Args:
      keys: of each seed: the key of the test noise, and of the noise that the maps are fitted to.
      corrupt: the corruption.
      train: clean rows that the maps are fitted to.
      test: clean rows that are scored.
      ranks: of the linear maps.
    """
    corrupted: list[dict[str, float]] = []
    linear: dict[int, list[dict[str, float]]] = {rank: [] for rank in ranks}
    apply = jaxae.LinearDenoiser.__call__
    scores_of = {rank: fitting.make_scores(partial(apply, rank=rank)) for rank in ranks}
    maps = []
    for test_key, pairs_key in keys:
        pieces = fitting.noisy_pieces(test_key, corrupt, test)
        corrupted.append(fitting.mean_scores(_SCORES_OF_INPUT, None, pieces))
        with jax.default_matmul_precision("highest"):
            pairs = fitting.noisy_pieces(pairs_key, corrupt, train)
            moments = functools.reduce(_MERGED, (_MOMENTS(*pair) for pair in pairs))
            maps.append(moments.denoiser())
        for rank in ranks:
            pieces = fitting.noisy_pieces(test_key, corrupt, test)
            linear[rank].append(fitting.mean_scores(scores_of[rank], maps[-1], pieces))
    return Baseline(
        scores_over_seeds(corrupted),
        {rank: scores_over_seeds(scores) for rank, scores in linear.items()},
        maps[0],
    )
