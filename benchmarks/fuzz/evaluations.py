"""Random calls of `robustness.evaluate` on mutated images, labels, models and settings."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fuzz.classifiers import MODELS, SHAPE, sound
from benchmarks.fuzz.oracle import Call, Fault
from dampode import robustness
from dampode.robustness import FGSM, IFGSM, PGD, SEVERITIES, RecenteredPGD, Report, Square, Transfer, UniformNoise

__all__ = ["evaluate_call"]

IMAGES: dict[str, Callable[[Tensor], Any]] = {
    "as they are": lambda x: x,
    "float64": Tensor.double,
    "half": Tensor.half,
    "uint8": lambda x: (255 * x).byte(),
    "times 255": lambda x: 255 * x,
    "above 1 by rounding": lambda x: x / x.max() * (1 + 1e-6),
    "NaN": lambda x: torch.where(x < 0.1, torch.nan, x),
    "complex": lambda x: x.to(torch.complex64),
    "no images": lambda x: x[:0],
    "one image": lambda x: x[:1],
    "without a batch": lambda x: x[0],
    "flat": lambda x: x.flatten(1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand_as(x),
    "wants a gradient": lambda x: x.clone().requires_grad_(),
    "constant": torch.zeros_like,
    "NumPy": Tensor.numpy,
    "meta": lambda x: x.to("meta"),
    "None": lambda x: None,
}
LABELS: dict[str, Callable[[Tensor], Any]] = {
    "as they are": lambda y: y,
    "int32": Tensor.int,
    "floating": Tensor.float,
    "bool": Tensor.bool,
    "(N, 1)": lambda y: y[:, None],
    "one-hot": lambda y: nn.functional.one_hot(y, 3),
    "too few": lambda y: y[1:],
    "out of range": lambda y: y + 3,
    "negative": lambda y: y - 1,
    "a list": Tensor.tolist,
    "None": lambda y: None,
}
EPS: list[Any] = [
    (),
    (0.0,),
    (0.03, 0.1),
    [0.1],
    (1.0,),
    (1.5,),
    (-0.1,),
    (float("nan"),),
    (0.1, 0.1),
    0.1,
    (1,),
    "0.1",
]
EPS += [(True,), (np.float64(0.1),), (np.float32(0.1),), torch.tensor([0.1]), (None,)]
SEVERITY: list[Any] = [(), (1,), (1, 5), (0,), (6,), (1.5,), ("3",), (2, 2), 3, (np.int64(2),), (True,)]
NOISES: list[Any] = [
    (),
    ("gaussian_noise",),
    tuple(SEVERITIES),
    ("fog",),
    "shot_noise",
    ("impulse_noise",) * 2,
    (1,),
    None,
]
SEEDS: list[Any] = [0, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 1.0, True, None, np.int64(3), "1"]
BATCHES: list[Any] = [500, 1, 3, 0, -1, 2.0, True, None, "5", 10**12]
CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "anomaly": torch.autograd.detect_anomaly,
}


def evaluate_call(seed: int) -> Call:
    """The call of a seed. Most arguments are valid, one or two are not."""
    r = random.Random(seed)
    mutated = r.sample(["model", "images", "labels", "settings", "surroundings"], r.choice([0, 1, 1, 2]))
    model_name = r.choice(sorted(MODELS)) if "model" in mutated else "convolutional"
    images = r.choice(sorted(IMAGES)) if "images" in mutated else "as they are"
    labels = r.choice(sorted(LABELS)) if "labels" in mutated else "as they are"
    context = r.choice(sorted(CONTEXTS)) if "surroundings" in mutated else "none"
    settings, attacks = _settings(r, "settings" in mutated), _attack_makers(r, "settings" in mutated)
    n = r.choice([2, 5])

    def build() -> tuple[Any, Any, Any]:
        torch.manual_seed(seed)
        x = torch.rand(n, *SHAPE)
        return MODELS[model_name](), IMAGES[images](x), LABELS[labels](torch.arange(n) % 3)

    def run() -> str:
        with CONTEXTS[context]():
            model, x, y = build()
            before = deepcopy(model.state_dict()) if isinstance(model, nn.Module) else None
            chosen = {name: make() for name, make in attacks.items()}
            report = robustness.evaluate(model, x, y, attacks=chosen, **settings)
        _require_sound(report, model, x, y, settings["batch_size"], context)
        if before is not None and any(not _same(value, before[key]) for key, value in model.state_dict().items()):
            raise Fault("evaluate changes the model", model_name)
        return "answered"

    def own_error() -> Exception | None:
        model, x, _ = build()
        if isinstance(model, nn.Module) and isinstance(x, Tensor):
            try:
                model.eval()(x[:1])
            except Exception as error:
                return error
        return None

    shown = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    words = (
        f"model: {model_name}, {n} images: {images}, labels: {labels}, context: {context}, attacks: {list(attacks)}, "
    )
    return Call(words + shown, run, own_error)


def _settings(r: random.Random, mutated: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "eps": r.choice([(0.03,), (0.0, 0.2)]),
        "noises": r.choice([(), ("gaussian_noise",), ("shot_noise", "impulse_noise")]),
        "severities": r.choice([(1,), (2, 5)]),
        "seed": 0,
        "batch_size": r.choice([500, 2]),
    }
    if mutated:
        odd = {"eps": EPS, "noises": NOISES, "severities": SEVERITY, "seed": SEEDS, "batch_size": BATCHES}
        for name in r.sample(sorted(odd), r.choice([1, 1, 2])):
            settings[name] = r.choice(odd[name])
    return settings


def _attack_makers(r: random.Random, mutated: bool) -> dict[str, Callable[[], Any]]:
    """One or two attacks by name, made within the call, since their settings may be refused."""
    alpha: float = r.choice([0.01, 0.1])
    steps: Any = r.choice([1, 3])
    keep: Any = r.choice(["strongest", "last", "first"])
    if mutated and r.random() < 0.3:
        alpha, steps = r.choice([(0.0, 2), (-0.1, 2), (2.0, 2), (float("nan"), 2), (0.1, 0), (0.1, 1.5), (0.1, True)])
        keep = r.choice(["strongest", "best", None])
    makers: dict[str, Callable[[], Any]] = {
        "FGSM": FGSM,
        "IFGSM": lambda: IFGSM(alpha, steps, keep),
        "PGD": lambda: PGD(alpha, steps, 2, keep),
        "recentered": lambda: RecenteredPGD(alpha, steps),
        "square": lambda: Square(5),
        "noise": UniformNoise,
        "transfer": lambda: Transfer(sound(), PGD(alpha, steps, 1, keep)),
    }
    if mutated and r.random() < 0.3:
        makers |= {
            "clean": FGSM,
            "gaussian_noise": FGSM,
            "a class": lambda: PGD,
            "a string": lambda: "PGD",
            "a function": lambda: robustness.fgsm,
        }
    chosen = r.sample(sorted(makers), r.choice([0, 1, 1, 2]))
    return {name: makers[name] for name in chosen}


def _same(value: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values; those on the meta device have none."""
    return value.is_meta or torch.equal(value.nan_to_num(), other.nan_to_num())


def _require_sound(report: Report, model: Any, x: Tensor, y: Tensor, batch_size: int, context: str) -> None:
    """Raise a `Fault` unless all accuracies lie in [0, 1], and those on clean images and at radius 0 are right."""
    for column in report.columns:
        if not 0 <= column.accuracy <= 1:
            raise Fault("an accuracy is no number in [0, 1]", f"{column.name}: {column.accuracy}")
    clean = report.column("clean", 0.0).accuracy
    again = robustness.accuracy(model, x, y, batch_size)
    if report.passed and abs(clean - again) > 1e-9:
        raise Fault(f"the clean accuracy is wrong: {context}", f"{clean} for {again}")
    if report.passed and any(c.group == "attack" and c.strength == 0 and c.accuracy != clean for c in report.columns):
        raise Fault("an attack of radius 0 changes the accuracy", "")
