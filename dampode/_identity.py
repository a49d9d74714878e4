"""What tells models and tensors from others."""

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(*parts: nn.Module | Tensor | str) -> str:
    """SHA-256 of modules (printed form, parameters and buffers), tensors (shape, dtype, values) and strings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            digest.update(f"module {part}".encode())
            for name, value in part.state_dict().items():
                _add(digest, name, value)
        elif isinstance(part, Tensor):
            _add(digest, "", part)
        else:
            digest.update(f"text {part}\n".encode())
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, value: Tensor) -> None:
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    digest.update(f"tensor {name} {tuple(value.shape)} {value.dtype}\n".encode())
    digest.update(flat.numpy().tobytes())
