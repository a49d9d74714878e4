"""Measurements in the float32 that they say: torch may be rounding the inputs of products and convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """No rounding of float32 inside: not to TF32's 10 bits, in which a perturbation of 1/255 has 4, nor to bfloat16.

    On CUDA, torch's default for convolutions is TF32; ``torch.set_float32_matmul_precision`` rounds products, on a CPU
    too. Torch has two interfaces to these settings and refuses to read the older one where the newer one was used, so
    both are set, and put back.
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
    """Whether convolutions may round, and the precision of products; None for what torch refuses to read."""
    convolutions, products = None, None
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    return convolutions, products
