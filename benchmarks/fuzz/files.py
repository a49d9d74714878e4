"""Random calls of `data.load` on mutated .npz files."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fuzz.oracle import Call, Fault
from dampode import data
from dampode.data.image_data import ImageData

__all__ = ["load_call"]

Arrays = dict[str, NDArray[Any]]
PARTS = ("x_train", "x_test")
LABELS = ("y_train", "y_test")
CLASSES = 3


def load_call(seed: int) -> Call:
    """The call of a seed."""
    r = random.Random(seed)
    rng = np.random.default_rng(seed)
    axes = r.choice(["NHWC", "NCHW", "NHW"])
    floating = r.random() < 0.5
    truth = _images(rng, axes, floating)
    layout: Any = r.choice([None, None, axes if axes != "NHW" else None, "NHWC", "NCHW", "HWCN"])
    names = r.sample(sorted(MUTATIONS), r.choice([0, 1, 1, 2]))
    words = f"{axes}, {'floating' if floating else 'uint8'}, layout={layout}, mutations: {names}"

    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npz"
            arrays = dict(truth)
            changed = random.Random(seed + 1)
            for name in names:
                arrays = MUTATIONS[name](arrays, changed)
            np.savez(path, **cast("dict[str, Any]", arrays))
            _damage(path, changed, r.random() if not names else 1.0)
            loaded = data.load(path, layout=layout)
        _require_sound(loaded)
        if not names and layout in (None, axes):
            _require_same(loaded, truth, axes)
        return "answered"

    return Call(words, run, lambda: None)


def _images(rng: np.random.Generator, axes: str, floating: bool) -> Arrays:
    """A valid data set. Each channel has its own range of values, so that a wrong axis shows."""
    arrays: Arrays = {}
    size = tuple(rng.integers(5, 12, 2))
    for part in ("train", "test"):
        n, channels = int(rng.integers(3, 9)), 1 if axes == "NHW" else 3
        x = (np.arange(channels)[:, None, None] + rng.random((n, channels, *size))) / channels
        x = x if floating else (255 * x).astype(np.uint8)
        arrays[f"x_{part}"] = {"NHWC": x.transpose(0, 2, 3, 1), "NCHW": x, "NHW": x[:, 0]}[axes]
        arrays[f"y_{part}"] = np.arange(n) % CLASSES
    return arrays


def _changing(
    keys: tuple[str, ...], change: Callable[[NDArray[Any]], Any]
) -> Callable[[Arrays, random.Random], Arrays]:
    """A mutation of one of the arrays. NumPy may refuse it where another mutation came before: then nothing changes."""

    def mutate(arrays: Arrays, r: random.Random) -> Arrays:
        key = r.choice([k for k in keys if k in arrays] or list(arrays))
        try:
            return {**arrays, key: np.asarray(change(arrays[key]))}
        except (IndexError, TypeError, ValueError):
            return arrays

    return mutate


def _without_a_key(arrays: Arrays, r: random.Random) -> Arrays:
    lost = r.choice(list(arrays))
    return {key: value for key, value in arrays.items() if key != lost}


def _with_other_keys(arrays: Arrays, r: random.Random) -> Arrays:
    """The keys of MedMNIST."""
    return {f"{key.split('_')[1]}_{'images' if key[0] == 'x' else 'labels'}": value for key, value in arrays.items()}


def _with_nan(x: NDArray[Any]) -> NDArray[Any]:
    y = x.astype(np.float64)
    y.flat[0] = np.nan
    return y


def _one_hot(y: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.eye(300)[np.clip(y.astype(float), 0, 299).astype(int).ravel()])


def _objects(x: NDArray[Any]) -> NDArray[Any]:
    y = np.empty(len(x) if x.ndim else 1, dtype=object)
    y[:] = [None] * len(y)
    return y


def _as(dtype: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda x: x.astype(dtype)


MUTATIONS: dict[str, Callable[[Arrays, random.Random], Arrays]] = {
    "without a key": _without_a_key,
    "MedMNIST's keys": _with_other_keys,
    "an extra key": lambda arrays, r: {**arrays, "note": np.array("about")},
    "images scaled by 255": _changing(PARTS, lambda x: x * 255.0),
    "images of 0 and 1": _changing(PARTS, lambda x: (x > 0.5 * x.max()).astype(np.uint8)),
    "images above 1 by rounding": _changing(PARTS, lambda x: x / x.max() * (1 + 1e-7)),
    "negative images": _changing(PARTS, lambda x: -x.astype(np.float64)),
    "NaN": _changing(PARTS, _with_nan),
    "infinite": _changing(PARTS, lambda x: x.astype(np.float64) + np.inf),
    "beyond float32": _changing(PARTS, lambda x: x.astype(np.float64) * 1e300),
    "no images": _changing(PARTS, lambda x: x[:0]),
    "one image": _changing(PARTS, lambda x: x[:1]),
    "no rows": _changing(PARTS, lambda x: x[:, :0]),
    "flat images": _changing(PARTS, lambda x: x.reshape(len(x), -1)),
    "five axes": _changing(PARTS, lambda x: x[..., None, None]),
    "a number for images": _changing(PARTS, lambda x: np.float32(0.5)),
    "four channels": _changing(PARTS, lambda x: np.resize(x, (len(x), 8, 8, 4))),
    "small images": _changing(PARTS, lambda x: x[:, :3, :3]),
    "not contiguous": _changing(PARTS, lambda x: x[:, ::-1]),
    "big-endian": _changing(PARTS, lambda x: x.astype(x.dtype.newbyteorder(">"))),
    **{f"images of {dtype}": _changing(PARTS, _as(dtype)) for dtype in ("f2", "f8", "g", "u2", "i8", "?", "c8", "U9")},
    "objects for images": _changing(PARTS, _objects),
    "labels of another number": _changing(LABELS, lambda y: y[1:]),
    "labels (N, 1)": _changing(LABELS, lambda y: y[:, None]),
    "one-hot labels": _changing(LABELS, _one_hot),
    "labels without a class": _changing(LABELS, lambda y: y * 2),
    "negative labels": _changing(LABELS, lambda y: y.astype(np.int64) - 1),
    "labels from 1": _changing(LABELS, lambda y: y + 1),
    "huge labels": _changing(LABELS, lambda y: y.astype(np.uint64) + np.uint64(2**63)),
    "one class": _changing(LABELS, lambda y: y * 0),
    "a number for labels": _changing(LABELS, lambda y: np.int64(1)),
    **{f"labels of {dtype}": _changing(LABELS, _as(dtype)) for dtype in ("u1", "f8", "?", "U9", "S3", "M8[s]", "c8")},
    "objects for labels": _changing(LABELS, _objects),
}
"""Name -> mutation of the arrays."""


def _damage(path: Path, r: random.Random, share: float) -> None:
    """Damage a tenth of the files that have no other mutation."""
    if share > 0.1:
        return
    content = bytearray(path.read_bytes())
    for _ in range(r.choice([1, 10])):
        content[r.randrange(len(content))] = r.randrange(256)
    path.write_bytes(bytes(content[: r.choice([0, 10, len(content) // 2, len(content)])]))


def _require_sound(loaded: ImageData) -> None:
    """Raise a `Fault` unless the data keep the promises of `ImageData`."""
    for part in ("train", "test"):
        x, y = getattr(loaded, f"x_{part}"), getattr(loaded, f"y_{part}")
        fits = x.ndim == 4 and len(x) == len(y) > 0 and y.dtype == torch.int64
        if not fits or x.dtype not in (torch.uint8, torch.float32, torch.float64):
            raise Fault("loaded data have a wrong form", f"{tuple(x.shape)}, {x.dtype}, {tuple(y.shape)}, {y.dtype}")
        if not bool((y >= 0).all()) or int(y.max()) >= loaded.num_classes:
            raise Fault("loaded labels are out of range", f"{y.tolist()}")
        if x.is_floating_point() and not bool(((x >= 0) & (x <= 1)).all()):
            raise Fault("loaded pixels are out of range", f"{x.min()}, {x.max()}")
        if loaded.augmentation.pad or loaded.augmentation.flip:
            raise Fault("unknown data are augmented", f"{loaded.augmentation}")


def _require_same(loaded: ImageData, truth: Arrays, axes: str) -> None:
    """Raise a `Fault` unless the pixels and labels are those of the file, channel by channel."""
    for part in ("train", "test"):
        x = truth[f"x_{part}"]
        wanted = x[:, None] if axes == "NHW" else x.transpose(0, 3, 1, 2) if axes == "NHWC" else x
        got = getattr(loaded, f"x_{part}").numpy()
        if got.shape != wanted.shape or not np.allclose(got, wanted, atol=1e-6):
            raise Fault("loaded pixels are not those of the file", f"{got.shape} for {wanted.shape}")
        if getattr(loaded, f"y_{part}").tolist() != truth[f"y_{part}"].tolist():
            raise Fault("loaded labels are not those of the file", "")
