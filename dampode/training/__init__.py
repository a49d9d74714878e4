"""Training: a recipe, a run that can be interrupted at any step and resumed, checkpoints that are always whole."""

from importlib.util import find_spec

if missing := [name for name in ("accelerate", "tqdm") if find_spec(name) is None]:
    raise ImportError(f"training needs {' and '.join(missing)}: install dampode[train]")

from dampode.training.checkpoint import load_checkpoint
from dampode.training.execution import Execution
from dampode.training.history import History
from dampode.training.loop import fit
from dampode.training.margin_loss import MarginLoss
from dampode.training.recipe import Recipe

__all__ = [
    "Execution",
    "History",
    "MarginLoss",
    "Recipe",
    "fit",
    "load_checkpoint",
]
