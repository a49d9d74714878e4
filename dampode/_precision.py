"""Full precision: outside settings of torch may round a pass to fewer bits, or change the dtype of its constants."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

__all__ = ["default_dtype", "full_float32", "rounds_products"]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` torch's default for a block of code, so that a pass has constants of the dtype of its input."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def full_float32() -> Iterator[None]:
    """Turn off autocast and rounding of float32 for a block of code, then restore torch's settings.

    Autocast would run most layers in bfloat16 or float16.

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
        with ExitStack() as stack:
            for device in _device_types():
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def rounds_products() -> bool:
    """Whether torch may round products of float32 matrices to fewer bits."""
    return _older_settings()[1] != "highest"


def _older_settings() -> tuple[bool | None, str | None]:
    """Whether convolutions may round, and the precision of products; None for a setting that torch refuses to read."""
    convolutions, products = None, None
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    return convolutions, products


def _device_types() -> list[str]:
    """The devices on which torch can run here: the CPU, and an accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator()
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]
