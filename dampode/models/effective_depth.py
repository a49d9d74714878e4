"""How deep a trained network is in effect: the blocks' shares of the state, and the accuracy without a block."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dampode._checks import require_instance
from dampode.block import Transition
from dampode.models.folding import fold
from dampode.models.preresnet import PreResNet, layers
from dampode.models.weights_file import unwrapped

__all__ = ["WithoutBlock", "accuracy_without_blocks", "block_shares", "effective_depth"]


class WithoutBlock(NamedTuple):
    """The accuracy of a network whose block n, or blocks n and later, pass their state on unchanged."""

    name: str
    """Name of block n in the model."""
    alone: float
    """Accuracy in [0, 1] without block n."""
    later: float
    """Accuracy in [0, 1] without block n and all later blocks. The stages' entries stay."""


@torch.no_grad()
def block_shares(model: PreResNet, x: Tensor) -> list[Tensor]:
    """The share of each block in the final state of its stage.

    A folded stage adds up the outputs b_n of its blocks: y = b_1 + b_2 + ... + b_N. b_1 is the output of the stage's
    entry, and b_n = g_n f_n, with the gain g_n that `fold` gives to branch n. The share of block n is

        p_n = v_n / (v_1 + ... + v_N),    v_n = Σ over elements of the variance of b_n over the images

    A network and its folded copy have the same shares, so damped and plain networks can be compared.

    Args:
        model: as for `fold`. It is evaluated in eval mode.
        x: pixels in [0, 1], (N, C, H, W), N >= 2.

    Returns:
        The shares of each stage, (blocks,), which sum to 1.

    Raises:
        ValueError, TypeError: as `fold`, or there are fewer than two images.
    """
    if len(x) < 2:
        raise ValueError(f"block_shares needs the variance over images: at least 2 images, got {len(x)}")
    plain = fold(model)
    state = plain.stem(plain.normalize(x))
    variances: dict[int, list[Tensor]] = {}
    for _, stage, index, layer in layers(plain):
        after = layer(state)
        variances.setdefault(id(stage), []).append((after if index == 0 else after - state).double().var(0).sum())
        state = after
    stages = [torch.stack(of_stage) for of_stage in variances.values()]
    return [of_stage / of_stage.sum() for of_stage in stages]


def effective_depth(model: PreResNet, x: Tensor) -> float:
    """The depth of a network of equal blocks whose blocks are as evenly used.

        D = 2 + c Σ over stages of 1 / Σ_n p_n²

    p_n are the `block_shares` and c is the number of convolutions in a branch. 1 / Σ p² is the participation ratio: the
    number of blocks if all have equal shares, and 1 if one block makes up the whole state. So D lies between 2 + 3c and
    the depth.

    Args:
        model: as for `fold`.
        x: pixels in [0, 1], (N, C, H, W), N >= 2; some hundred images suffice.

    Raises:
        ValueError, TypeError: as `block_shares`.

    Source: the participation ratio of Bell & Dean 1970, applied to the blocks of a residual network.
    """
    network = unwrapped(model)
    require_instance(network, PreResNet, "model", "the depth is counted in the networks of PreResNet")
    assert isinstance(network, PreResNet)
    plain = fold(network)
    _, _, _, entry = next(layers(plain))
    assert isinstance(entry, Transition)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in entry.f.modules())
    used = sum(1 / (p**2).sum().item() for p in block_shares(plain, x))
    return 2 + convolutions * used


@torch.no_grad()
def accuracy_without_blocks(model: PreResNet, x: Tensor, y: Tensor) -> list[WithoutBlock]:
    """The accuracy that is left when a block is taken out, or a block with all later blocks.

    A block without its branch passes its state on, x + 0 (Veit et al. 2016). Batch norm keeps its statistics. Only
    blocks that keep the state's shape are taken out; the first block of each stage stays.

    Args:
        model: as for `fold`.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).

    Returns:
        One entry per block, in order.

    Raises:
        ValueError, TypeError: as `fold`.

    Source: Veit, Wilber & Belongie 2016, Residual networks behave like ensembles of relatively shallow networks.
    """
    plain = fold(model)
    sequence = list(layers(plain))

    def accuracy(state: Tensor, rest: Iterable[nn.Module]) -> float:
        for layer in rest:
            state = layer(state)
        return (plain.logits(state).argmax(1) == y).double().mean().item()

    state, found = plain.stem(plain.normalize(x)), []
    for n, (name, _, index, block) in enumerate(sequence):
        if index > 0:
            later = sequence[n + 1 :]
            alone = accuracy(state, (layer for _, _, _, layer in later))
            entries = accuracy(state, (layer for _, _, i, layer in later if i == 0))
            found.append(WithoutBlock(name, alone, entries))
        state = block(state)
    return found
