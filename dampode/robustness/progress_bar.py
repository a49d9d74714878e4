"""An optional progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar_of"]


@contextmanager
def progress_bar_of(total: int, label: str, shown: bool) -> Iterator[Callable[[], None]]:
    """A function to call after each of ``total`` parts. It advances a bar (tqdm), or does nothing if none is shown.

    Raises:
        ImportError: a bar is wanted, but tqdm is not installed.
    """
    if not shown:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("the progress bar is tqdm's: install dampode[train], or pass progress=False") from None
    with tqdm(total=total, desc=label, unit="block", mininterval=0.5) as bar:

        def advance() -> None:
            bar.update()

        yield advance
