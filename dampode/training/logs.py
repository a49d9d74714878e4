"""The logs of a training run: log.csv and TensorBoard events."""

import csv
import io
from pathlib import Path
from types import TracebackType

from dampode._files import require_writable, write_atomically
from dampode.training.history import History
from dampode.training.recipe import Recipe

__all__ = ["Log"]

COLUMNS = ("epoch", "lr", "loss", "accuracy", "seconds", "images_per_s", "lam_min", "lam_mean", "lam_max")


def _rows(history: History, recipe: Recipe, images: int) -> list[dict[str, float]]:
    """One row per epoch, counted from 1."""
    table = []
    for epoch, (loss, accuracy, seconds, lam) in enumerate(
        zip(history.loss, history.accuracy, history.seconds, history.lam, strict=True)
    ):
        values = (epoch + 1, recipe.lr_at(epoch), loss, accuracy, seconds, images / seconds, *lam)
        table.append(dict(zip(COLUMNS, values, strict=False)))
    return table


class Log:
    """The log of a run, in a folder of its own. It holds resumed epochs once.

    Every epoch writes log.csv anew from the whole history. TensorBoard is told to forget the events of all epochs that
    the run has yet to do.

    Args:
        folder: the folder of log.csv and of the TensorBoard events.
        recipe: the run's recipe.
        images: number of training images.
        history: the epochs done before; log.csv holds them from the start.
        tensorboard: whether TensorBoard events are written.

    Raises:
        OSError: the folder cannot be written.
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, recipe: Recipe, images: int, history: History, tensorboard: bool) -> None:
        require_writable(folder)
        self.path, self.recipe, self.images = folder / "log.csv", recipe, images
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ImportError("TensorBoard's log needs tensorboard: install dampode[train]") from None
            self.writer = SummaryWriter(folder, purge_step=len(history.loss) + 1)
        if history.loss:
            self._write_table(history)

    def write(self, history: History) -> None:
        """Log a history whose last epoch is new."""
        last = self._write_table(history)[-1]
        if self.writer is not None:
            for name, value in last.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(last["epoch"]))
            self.writer.flush()

    def _write_table(self, history: History) -> list[dict[str, float]]:
        """Write log.csv and return its rows."""
        table = _rows(history, self.recipe, self.images)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))
        return table

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()
