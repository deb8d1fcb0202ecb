"""The errors that end a training."""

from __future__ import annotations


class NonFiniteLossError(FloatingPointError):
    """Training broke down: a loss, or a parameter at the end, is NaN or infinite.

    Attributes:
      what: what is not finite.
      epoch: the epoch in which it happened, from 1.
      model: which of several models it was, from 0, or None where there is one.
      reason: what is known of the reason, or what to look at.
    """

    def __init__(
        self, what: str, epoch: int, model: int | None = None, reason: str | None = None
    ) -> None:
        which = "" if model is None else f" of model {model}"
        # Kept apart, so that a driver that finds out more can raise it again with another reason.
        self.what, self.epoch, self.model = what, epoch, model
        self.reason = reason or (
            "lower the learning rate, or look for a division by zero in the loss and for values "
            "outside their range (x in [0, 1] for bernoulli_nll, codes in [0, 1] for "
            "kl_sparsity_penalty, weights of at least 0)"
        )
        super().__init__(f"{what} in epoch {epoch}{which}: {self.reason}")


class StoppedError(Exception):
    """Training stopped before its end, because it was told to.

    Attributes:
      model: which of several models it was, from 0.
    """

    def __init__(self, epoch: int, step: int, model: int = 0) -> None:
        super().__init__(f"stopped after {epoch} epochs and {step} steps")
        self.model = model  # which one to name, where several train in threads


class LostProcessError(RuntimeError):
    """Another process of the run is gone, so none of them can go on."""

    def __init__(self, what: str) -> None:
        super().__init__(f"another process of this run is gone ({what})")
