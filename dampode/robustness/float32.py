"""Full float32 precision: torch may round the inputs of matrix products and convolutions to fewer bits."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32() -> Iterator[None]:
    """Turn off rounding of float32 for a block of code, then restore torch's settings.

    TF32 keeps 10 bits of the mantissa, so that a perturbation of 1/255 keeps about 4 bits; bfloat16 keeps fewer. On
    CUDA, torch uses TF32 for convolutions by default. ``torch.set_float32_matmul_precision`` can turn on rounding of
    products, also on a CPU. Torch has two interfaces to these settings, and it refuses to read the older one after the
    newer one was used. Both are therefore set and restored.
    """
    backends: Any = torch.backends
    operations = (
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
        backends.mkldnn.matmul,
    )
    precisions = [operation.fp32_precision for operation in operations]
    convolutions, products = _older_settings()
    backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def _older_settings() -> tuple[bool | None, str | None]:
    """Whether convolutions may round, and the precision of products; None for a setting that torch refuses to read."""
    convolutions, products = None, None
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    return convolutions, products
