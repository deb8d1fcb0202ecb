"""Early stopping on held-out rows.

``jaxae.fit`` hands the state over after each epoch, to be kept as a snapshot, and asks whether to
stop. Here a snapshot is not kept but scored. (``jaxae.keep_best`` needs the held-out rows as
constants of the training program, so each fold of a cross-validation would compile its own; and it
never stops.)
"""

from collections.abc import Callable

from jaxae.sklearn._network import Params
from jaxae.training.snapshots import Snapshot
from jaxae.training.steps import TrainState


class EarlyStopping:
    """The checkpoints of a run that stops when the error of held-out rows no longer falls.

    Attributes:
      every: epochs between two scores.
      errors: the error after each epoch.
      best_state: the state with the least error; before the first epoch the state at the start.
    """

    every: int | None = 1

    def __init__(
        self, mean_error: Callable[[Params], float], patience: int, start: TrainState
    ) -> None:
        self._mean_error, self._patience = mean_error, patience
        self.errors: list[float] = []
        self.best_state = start

    def restore(self, model: int, like: TrainState) -> Snapshot | None:
        """Returns None: nothing is kept from an earlier run."""
        return None

    def save(self, model: int, snapshot: Snapshot) -> None:
        """Scores the parameters of a snapshot, and keeps its state if it is the best so far."""
        error = self._mean_error(snapshot.state.params)
        if not self.errors or error < min(self.errors):
            self.best_state = snapshot.state
        self.errors.append(error)

    def should_stop(self) -> bool:
        """Returns whether the last ``patience`` epochs brought no better error."""
        if not self.errors:
            return False
        epochs_since_best = len(self.errors) - 1 - self.errors.index(min(self.errors))
        return epochs_since_best >= self._patience
