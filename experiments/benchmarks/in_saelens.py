"""Data, training and measures of dictionaries by SAELens, where it is installed; no dependency.

JAX is not imported here. What is trained is SAELens as it is: its training classes with their
defaults, and its ``SAETrainer``, which gets tensors from memory instead of activations of a model.
"""

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.benchmarks.dictionary_task import (
    ACTIVE,
    BANDWIDTH,
    DEAD_AFTER,
    FIRST_THRESHOLD,
    STEP_SIZE,
    THRESHOLD_MEMORY,
    Method,
    Size,
    Task,
    initial_weights,
)

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

PIECE = 4096  # examples that are drawn at a time

os.environ.setdefault("TQDM_DISABLE", "1")  # read when SAELens is imported


def is_installed() -> bool:
    """Returns whether SAELens, and so PyTorch, can be imported."""
    return find_spec("sae_lens") is not None


def count_threads() -> int:
    """Returns how many threads PyTorch computes with."""
    import torch

    return torch.get_num_threads()


def make_task(size: Size, seed: int) -> Task:
    """Returns a task on SAELens's own synthetic data, of the published recipe at another size."""
    import torch
    from sae_lens.synthetic import (
        FoldedNormalMagnitudeConfig,
        HierarchyConfig,
        LinearMagnitudeConfig,
        LowRankCorrelationConfig,
        OrthogonalizationConfig,
        SyntheticModel,
        SyntheticModelConfig,
        ZipfianFiringProbabilityConfig,
    )

    model = SyntheticModel(
        SyntheticModelConfig(
            num_features=size.atoms,
            hidden_dim=size.inputs,
            firing_probability=ZipfianFiringProbabilityConfig(0.5, 0.4, 5e-4),
            hierarchy=HierarchyConfig(
                total_root_nodes=size.roots,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            orthogonalization=OrthogonalizationConfig(),
            correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            mean_firing_magnitudes=LinearMagnitudeConfig(5.0, 4.0),
            std_firing_magnitudes=FoldedNormalMagnitudeConfig(0.5, 0.5),
            bias=False,
            seed=seed,
        )
    )
    torch.manual_seed(seed)
    pieces = [model.sample(n).numpy() for n in _pieces(size.steps * size.batch)]
    held_out = [model.sample_with_features(n) for n in _pieces(size.held_out)]
    x_test, strengths = (torch.cat(parts).numpy() for parts in zip(*held_out, strict=True))
    atoms = model.feature_dict.feature_vectors.detach().numpy()
    x = np.concatenate(pieces)
    return Task(size, atoms, x, x_test, strengths, initial_weights(size, seed))


def loss_and_gradients(
    method: Method, size: Size, weights: dict[str, np.ndarray], x: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Returns the training loss of a batch, and its gradients by the names of the parameters."""
    import torch
    from sae_lens.saes.sae import TrainStepInput

    sae = _make_sae(method, size, weights)
    coefficients = {
        name: getattr(coefficient, "value", coefficient)
        for name, coefficient in sae.get_coefficients().items()
    }
    none_dead = torch.zeros(size.units, dtype=torch.bool)
    step = TrainStepInput(torch.tensor(x), coefficients, none_dead, 0, is_logging_step=False)
    loss = sae.training_forward_pass(step).loss
    loss.backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in sae.named_parameters()
        if parameter.grad is not None
    }
    return float(loss.detach()), gradients


def train(method: Method, task: Task, folder: Path) -> float:
    """Trains a dictionary, saves it in a folder, and returns the seconds of the training."""
    import torch
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

    size = task.size
    sae = _make_sae(method, size, task.weights)
    batches = torch.tensor(task.x).split(size.batch)
    config = SAETrainerConfig(
        total_training_samples=len(task.x),
        train_batch_size_samples=size.batch,
        lr=STEP_SIZE,
        lr_end=STEP_SIZE,
        dead_feature_window=DEAD_AFTER,
    )
    trainer: Any = SAETrainer(config, sae, iter(batches))
    start = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - start
    sae.save_inference_model(folder)
    return seconds


def measure(folder: Path, task: Task) -> dict[str, float]:
    """Returns the measures of a dictionary that lies in a folder, on the held-out examples."""
    import torch
    from sae_lens import SAE
    from sae_lens.evals import ExplainedVarianceCalculator
    from sae_lens.synthetic import evals

    sae: Any = SAE.load_from_disk(folder)
    x, strengths, atoms = map(torch.tensor, (task.x_test, task.strengths, task.atoms))
    l0, explained = evals.L0Calculator(), ExplainedVarianceCalculator()
    with torch.no_grad():
        code = sae.encode(x)
        l0.add_batch(code)
        explained.add_batch(sae.decode(code), x)
        found = evals.compute_classification_metrics(code, strengths, sae.W_dec, atoms)
        correlation = evals.mean_correlation_coefficient(sae.W_dec, atoms)
    return {
        "active_units": l0.compute(),
        "explained_variance": explained.compute(),
        "f1": found.f1_score,
        "mean_correlation": correlation,
    }


def _make_sae(method: Method, size: Size, weights: dict[str, np.ndarray]) -> "TrainingSAE[Any]":
    """Returns a dictionary of SAELens that starts from weights."""
    import torch
    from sae_lens import TrainingSAE

    settings: dict[str, Any] = {"architecture": method.architecture, "d_in": size.inputs}
    settings |= {"d_sae": size.units, "dtype": "float32", "device": "cpu"}
    if method.architecture == "standard":
        settings["l1_coefficient"] = method.weight
    if method.architecture == "jumprelu":
        settings |= {"l0_coefficient": method.weight, "jumprelu_bandwidth": BANDWIDTH}
        settings["jumprelu_init_threshold"] = FIRST_THRESHOLD
    if method.ranks_units:
        settings["k"] = ACTIVE
    if method.ranks_a_batch:
        settings["topk_threshold_lr"] = THRESHOLD_MEMORY
    if method.architecture == "matryoshka_batchtopk":
        settings["matryoshka_widths"] = size.prefixes
    sae: Any = TrainingSAE.from_dict(settings)
    with torch.no_grad():
        for name, array in weights.items():
            getattr(sae, name).copy_(torch.tensor(array))
    return sae


def _pieces(count: int) -> list[int]:
    """Returns the sizes of pieces that make up a number of examples."""
    return [min(PIECE, count - begin) for begin in range(0, count, PIECE)]
