"""The progress of a measurement: a bar in a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar_of"]

SECONDS = 10.0
"""Time between two lines, at least."""


@contextmanager
def progress_bar_of(total: int, label: str, shown: bool) -> Iterator[Callable[[], None]]:
    """A function to call after each of ``total`` parts. It shows the progress on the error stream, if it is wanted.

    A terminal shows a bar (tqdm). A log file gets a line at the start, every 10 seconds at most, and at the end.

    Raises:
        ImportError: a bar is wanted, but tqdm is not installed.
    """
    if not shown:
        yield lambda: None
    elif sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("the progress bar is tqdm's: install dampode[train], or pass progress=False") from None
        with tqdm(total=total, desc=label, unit="block", mininterval=0.5) as bar:

            def advance() -> None:
                bar.update()

            yield advance
    else:
        yield _lines(total, label)


def _lines(total: int, label: str) -> Callable[[], None]:
    """A function that prints a line after some of the parts."""
    start = last = time.monotonic()
    done = 0
    print(f"{label}: {total} blocks", file=sys.stderr, flush=True)

    def advance() -> None:
        nonlocal done, last
        done, now = done + 1, time.monotonic()
        if done == total or now - last >= SECONDS:
            last = now
            print(f"{label}: {done} of {total} blocks, {now - start:.0f} s", file=sys.stderr, flush=True)

    return advance
