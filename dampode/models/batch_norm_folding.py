"""Fold batch norm into the convolution before it, or into a scale and a shift: the same function at a lower cost.

In eval mode batch norm computes s x + b with s = γ / sqrt(v + eps) and b = β − s μ. A convolution that feeds it alone
takes s into its weight and b into its bias. Elsewhere s x + b remains, which costs less than batch norm, and far less
in the backward pass.
"""

from collections import Counter
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn

from dampode._checks import require_instance

__all__ = ["ChannelAffine", "fold_batch_norm"]


class ChannelAffine(nn.Module):
    """s x + b with one s and one b per channel: x (N, C, H, W) -> (N, C, H, W).

    Args:
        scale, shift: s and b, (C,).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """The scaled and shifted x."""
        return torch.addcmul(self.shift, x, self.scale)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy without batch norm that computes the same function in eval mode, up to rounding. The model is unchanged.

    Use the copy for attacks and inference. It cannot be trained as the model can, because its scales are constants.

    Args:
        model: a network with `nn.BatchNorm2d`, such as those of `dampode.models`. `fold` comes before this function.
            A convolution takes in the batch norm that follows it in the same `nn.Sequential`.

    Raises:
        TypeError: the model is not a module.
        ValueError: a batch norm has no running statistics.

    Source: Ioffe & Szegedy 2015; Jacob et al. 2018, Sec. 3.2 (batch norm in the convolution before it).
    """
    require_instance(model, nn.Module, "model", "fold_batch_norm takes a network")
    folded = deepcopy(model).eval()
    uses = Counter(id(module) for _, module in folded.named_modules(remove_duplicate=False))
    for part in folded.modules():
        if isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward:
            for index, (convolution, norm) in enumerate(pairwise(part), 1):
                if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and uses[id(convolution)] == 1:
                    _into_convolution(convolution, *_scale_and_shift(norm, str(index)))
                    part[index] = nn.Identity()
    for path, part in folded.named_modules():
        for name, norm in part.named_children():
            if type(norm) is nn.BatchNorm2d:
                scale, shift = _scale_and_shift(norm, f"{path}.{name}".lstrip("."))
                assert norm.running_mean is not None
                part.register_module(name, ChannelAffine(scale.to(norm.running_mean), shift.to(norm.running_mean)))
    return folded.eval()


def _scale_and_shift(norm: nn.BatchNorm2d, name: str) -> tuple[Tensor, Tensor]:
    """The s and b of a batch norm, (C,) in float64."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError(
            f"fold_batch_norm needs batch norm with running statistics, got track_running_stats=False in {name}: use "
            "the network as it is"
        )
    with torch.no_grad():
        scale = (var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = norm.weight.double() * scale
        shift = -scale * mean.double()
        return scale, shift if norm.bias is None else shift + norm.bias.double()


def _into_convolution(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Let a convolution compute s (its output) + b."""
    weight, bias = convolution.weight, convolution.bias
    with torch.no_grad():
        shift = shift if bias is None else shift + scale * bias.double()
        convolution.weight = nn.Parameter((weight.double() * scale[:, None, None, None]).to(weight))
        convolution.bias = nn.Parameter(shift.to(weight))
