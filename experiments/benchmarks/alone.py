"""Trains one epoch by one contender, in a process that imports nothing of the others.

    python -m experiments.benchmarks.alone NAME TASK.npz DEVICE

``experiments.benchmarks.start`` starts it: NAME is one of its contenders, TASK.npz what
``experiments.benchmarks.task.save`` wrote, and DEVICE that of PyTorch. Prints the mean loss.
"""

import sys

if not __package__:  # started as a file, where Python does not find the other parts
    command = "python -m experiments.benchmarks.alone"
    print(f"error: run {command} in the repository root", file=sys.stderr)
    sys.exit(2)

from pathlib import Path

from experiments.benchmarks import task


def one_epoch(name: str, path: Path, device: str) -> float:
    """Returns the mean loss of the first epoch."""
    given = task.load(path)
    if name.startswith("torch"):
        from experiments.benchmarks import in_torch

        return in_torch.epochs(given, name, device)()
    if name == "keras":
        from experiments.benchmarks import in_keras

        return in_keras.epochs(given)()
    from experiments.benchmarks import in_jaxae

    if name == "jaxae":
        return in_jaxae.Epochs(given)()
    return in_jaxae.Epochs(given, make_key=in_jaxae.default_generator)()


if __name__ == "__main__":
    print(one_epoch(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
