"""NumPy arrays as a data set: layouts, labels, pixel types, and opaque alpha channels."""

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData

__all__ = ["Array", "Layout", "class_labels", "data_from_arrays"]

Array = np.ndarray[Any, Any]
Layout = Literal["NHWC", "NCHW"]
"""Where the channels of an array of images lie: in the last axis, or in the second."""


def data_from_arrays(
    name: str,
    x_train: Array,
    y_train: Array,
    x_test: Array,
    y_test: Array,
    num_classes: int,
    layout: Layout | None,
    augmentation: Augmentation,
) -> ImageData:
    """NumPy arrays as `ImageData`; an alpha channel that is opaque everywhere is dropped with a warning."""
    train, test = _channels_first("x_train", x_train, layout), _channels_first("x_test", x_test, layout)
    if _is_opaque(train) and _is_opaque(test):
        warnings.warn(f"{name}: the last of {train.shape[1]} channels is an opaque alpha and is dropped", stacklevel=4)
        train, test = train[:, :-1].contiguous(), test[:, :-1].contiguous()
    labels = [torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test)]
    return ImageData(name, train, labels[0], test, labels[1], num_classes, augmentation)


def class_labels(y_train: Array, y_test: Array) -> tuple[Array, Array, int]:
    """Labels as integers (N,), and the number of classes.

    Labels are (N,) or (N, 1) integers or strings, or one-hot rows (N, K). Strings are numbered in sorted order.

    Raises:
        ValueError: the labels have another form, or the training set lacks a class.
    """
    y_train, y_test = _flat_labels("y_train", y_train), _flat_labels("y_test", y_test)
    if (y_train.dtype.kind in "US") != (y_test.dtype.kind in "US"):
        raise ValueError(f"y_train and y_test must both be names or both numbers, got {y_train.dtype}, {y_test.dtype}")
    if y_train.dtype.kind in "US":
        names = np.unique(y_train)
        unknown = sorted(set(y_test.tolist()) - set(names.tolist()))
        if unknown:
            raise ValueError(f"every label of y_test must be one of y_train, got {unknown[:5]}; correct them")
        return np.searchsorted(names, y_train), np.searchsorted(names, y_test), max(len(names), 2)
    classes = int(y_train.max(initial=1)) + 1
    if y_train.size and y_train.min() >= 0 and np.unique(y_train).size != classes:
        raise ValueError(f"y_train must hold every label from 0 to its largest, {classes - 1}; renumber them")
    return y_train, y_test, classes


def _flat_labels(part: str, y: Array) -> Array:
    """Labels (N,) of integers or strings, from (N,), (N, 1) or one-hot rows."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    elif y.ndim == 2 and y.dtype.kind in "uifb":
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"{part} of shape {y.shape} must hold one 1 per row, the rest 0; got rows with several labels or other "
                "values: name one class per image"
            )
        y = y.argmax(1)
    if y.dtype.kind == "b":
        y = y.astype(np.int64)
    if y.dtype.kind not in "uiUS":
        raise ValueError(
            f"{part} must hold int labels, got {y.dtype} of shape {y.shape}; convert them with .astype(int), or names "
            "of classes with .astype(str)"
        )
    return y


def _channels_first(part: str, x: Array, layout: Layout | None) -> Tensor:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as a contiguous tensor (N, C, H, W), uint8 or float32."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{part} must hold images (N, H, W, C), (N, C, H, W) or (N, H, W), got shape {x.shape}")
    if x.dtype == np.uint16:
        if x.size and x.max() <= 255:
            raise ValueError(
                f"uint16 images must have pixels in 0..65535, the largest of {part} is {x.max()}, which is almost "
                "black; convert images of 0..255 with .astype(np.uint8)"
            )
        x = x.astype(np.float32) / np.float32(65535)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(
            f"{part} images must be uint8 or floating in [0, 1], or uint16, got {x.dtype}; convert images of 0..255 "
            "with .astype(np.uint8)"
        )
    if x.ndim == 3:
        x = x[:, None]  # gray
    elif (layout or _recognized_layout(part, x.shape)) == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))
    # .contiguous() would keep channels-last strides where C = 1
    return images.clone(memory_format=torch.contiguous_format)


def _is_opaque(x: Tensor) -> bool:
    """Whether images (N, C, H, W) are gray or RGB with an alpha channel that is opaque everywhere."""
    opaque = 255 if x.dtype == torch.uint8 else 1
    return x.shape[1] in (2, 4) and x.numel() > 0 and bool((x[:, -1] == opaque).all() and (x[:, :-1] != opaque).any())


def _recognized_layout(part: str, shape: tuple[int, ...]) -> Layout:
    """The layout of an array of 1 or 3 channels whose other sides are longer than 4, or a worded error."""
    _, first, second, last = shape
    if min(first, second) > 4 and last in (1, 3):
        return "NHWC"
    if min(second, last) > 4 and first in (1, 3):
        return "NCHW"
    raise ValueError(
        f"{part} must show which axis holds the channels, got shape {shape}, which may be (N, H, W, C) or "
        f'(N, C, H, W); pass layout="NHWC" or layout="NCHW"'
    )
