"""Training: a recipe, a loop that can be interrupted and resumed, checkpoints that are always whole."""

import os
import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dampode._checks import require_nonnegative, require_positive, require_positive_int
from dampode.damping import Damping
from dampode.data import ImageData, pixels


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a learning rate that is divided by 10 at two milestones. Defaults: the paper's CIFAR-10.

    Args:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: learning rate at the start.
        momentum: of SGD, without Nesterov.
        weight_decay: L2 decay, on all parameters.
        decay_damping: whether weight decay acts on damping parameters too, as it does in the authors' code.
        milestones: shares of the epochs after which the learning rate is divided by 10.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Yang et al. 2020, Sec. 4.1.
    """

    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_damping: bool = True
    milestones: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.epochs, "epochs")
        require_positive_int(self.batch_size, "batch_size")
        require_positive(self.lr, "lr")
        require_nonnegative(self.momentum, "momentum")
        require_nonnegative(self.weight_decay, "weight_decay")
        for share in self.milestones:
            require_nonnegative(share, "a milestone")


@dataclass
class History:
    """What a training run left: the mean loss of each epoch, and whether it diverged (a loss that is not finite)."""

    loss: list[float]
    diverged: bool = False


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    label: str = "training",
) -> History:
    """Train a classifier of pixels in place, on the device where it and the data are.

    Shuffling and augmentation draw from a generator of their own, seeded here. A loss that is not finite ends the
    run and is said in the history. With a checkpoint path, every epoch ends with an atomic write, so that an
    interruption at any moment leaves the last whole epoch; ``resume`` goes on from it.

    Args:
        model: the classifier; its own weights are the start.
        data: images on the model's device.
        recipe: how to train.
        seed: seed of shuffling and augmentation.
        checkpoint: file that every epoch overwrites.
        resume: whether to go on from the checkpoint if it is there.
        label: name on the progress bar.

    Returns:
        The history, resumed epochs included.

    Raises:
        ValueError: the checkpoint is damaged, or of another recipe, seed or architecture.
    """
    generator = torch.Generator(data.x_train.device).manual_seed(seed)
    optimizer = _optimizer(model, recipe)
    history = History([])
    settings = {"recipe": {**asdict(recipe), "milestones": list(recipe.milestones)}, "seed": seed}
    if resume and checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        if state["settings"] != settings:
            raise ValueError(f"{checkpoint} must be of this run: it has {state['settings']}, asked for {settings}")
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"{checkpoint} must be of this architecture: {error}") from None
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        history = History(**state["history"])

    milestones = [round(share * recipe.epochs) for share in recipe.milestones]
    steps = -(-len(data.x_train) // recipe.batch_size)
    model.train()
    with tqdm(
        total=recipe.epochs * steps, initial=len(history.loss) * steps, desc=label, unit="step", mininterval=0.5
    ) as bar:
        for epoch in range(len(history.loss), recipe.epochs):
            if history.diverged:
                break
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
            loss = _epoch(model, data, recipe, optimizer, generator, bar)
            history.loss.append(loss)
            history.diverged = not torch.isfinite(torch.tensor(loss)).item()
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint,
                    {
                        "settings": settings,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": generator.get_state(),
                        "history": asdict(history),
                    },
                )
    return history


def _epoch(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    bar: Any,
) -> float:
    """One pass over the training images in random order; returns the mean loss."""
    n = len(data.x_train)
    order = torch.randperm(n, generator=generator, device=data.x_train.device)
    total = torch.zeros((), device=data.x_train.device)
    for step, chosen in enumerate(order.split(recipe.batch_size)):
        x = pixels(data.augmentation(data.x_train[chosen], generator))
        loss = F.cross_entropy(model(x), data.y_train[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(chosen)
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")  # a host sync, so not at every step
    return (total / n).item()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD; damping parameters form their own group, with decay or without."""
    damping = [p for module in model.modules() if isinstance(module, Damping) for p in module.parameters()]
    ids = {id(p) for p in damping}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in ids], "weight_decay": recipe.weight_decay},
        {"params": damping, "weight_decay": recipe.weight_decay if recipe.decay_damping else 0.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=recipe.lr, momentum=recipe.momentum)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: to a file beside it, flushed to disk, then renamed over the old one.

    Raises:
        OSError: the folder cannot be written; the old checkpoint is then as it was.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        raise OSError(f"the checkpoint {path} could not be written ({error}); the one before it is untouched") from None


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint`: tensors and plain values only, no code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, truncated or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} must exist; got no such file")
    try:
        state: Any = torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path} must be a whole checkpoint; it is damaged or of another kind ({error})") from None
    keys = {"settings", "model", "optimizer", "generator", "history"}
    if not isinstance(state, dict) or set(state) != keys:
        raise ValueError(f"{path} must be a checkpoint of dampode.training with {sorted(keys)}")
    return state


def require_writable(folder: Path) -> None:
    """Make the folder and try to write into it, before hours are spent.

    Raises:
        OSError: it cannot be made or written.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"the output folder must be writable: {folder} ({error}); choose another") from None
