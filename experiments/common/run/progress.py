"""Progress of a run: a bar on a terminal, plain lines when the output is not a terminal."""

import sys
import time

from tqdm import tqdm

from experiments.common.errors import visible


class Progress:
    """Counts units of work, names what is being done, and prints results above the bar.

    Args:
      total: how many units there are.
      unit: what a unit is called.
      is_shown: whether anything is printed at all.
    """

    def __init__(self, total: int, unit: str, *, is_shown: bool = True) -> None:
        self._is_shown = is_shown
        disable = None if is_shown else True
        self._bar = tqdm(total=total, unit=unit, disable=disable, dynamic_ncols=True, leave=False)
        self._start = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, doing: str) -> None:
        """Counts one unit."""
        self._bar.set_description(doing, refresh=False)
        self._bar.update()

    def say(self, line: str) -> None:
        """Prints one line with the seconds since the start."""
        if not self._is_shown:
            return
        tqdm.write(f"[{time.perf_counter() - self._start:6.1f} s] {visible(line)}", file=sys.stdout)
        sys.stdout.flush()
