"""Fold constant damping into batch norm and the branches' last convolutions: the same function as a plain network.

Inside a stage the damped state is x_n = s_n y_n, where y_n is the state of a plain pre-activation ResNet, s = 1 after
the stage's entry and s_{n+1} = (1 − λ_n) s_n. Every layer that reads x_n begins with batch norm, which absorbs s_n. The
plain branch is multiplied by ρ(λ_n) / s_{n+1}:

    (1 − λ_n) x_n + ρ f(x_n) = s_{n+1} (y_n + ρ / s_{n+1} f(s_n y_n))

So if batch norm reads the state, a constant λ chooses branch gains and adds no function.
"""

from collections import Counter
from copy import deepcopy

import torch
from torch import Tensor, nn

from dampode._checks import require_instance
from dampode.block import DampedBlock, Transition
from dampode.dynamics import DampedODEFunc
from dampode.fields import Autonomous
from dampode.integrators import ExponentialEuler, LinearizedEuler
from dampode.models.image_parts import Normalize
from dampode.models.preresnet import PreResNet, branch_of, layers
from dampode.models.resnext import ResNeXt29
from dampode.models.weights_file import unwrapped

__all__ = ["PlainNormalize", "PlainTransition", "fold", "step_factors"]


class PlainTransition(Transition):
    """shortcut(x) + f(x) without a check, so that FX, TorchScript and quantization take it."""

    def forward(self, x: Tensor) -> Tensor:
        """shortcut(x) + f(x), (N, *S')."""
        kept: Tensor = self.shortcut(x)
        fx: Tensor = self.f(x)
        return kept + fx


class PlainNormalize(Normalize):
    """(x − mean) / std without a check, so that FX, TorchScript and quantization take it."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalized images."""
        return (x - self.mean) / self.std


def fold(model: PreResNet) -> PreResNet:
    """A plain network x + f(x), without damping, that computes the same function in eval mode. The model is unchanged.

    The result is exact up to rounding for every λ_n except 1. That includes batch norm's eps and λ_n > 1, which changes
    a sign. The copy costs as much as the plain ResNet. In training mode it starts as the same function up to eps, but
    its branches have other gains.

    Args:
        model: a pre-activation network whose λ_n do not depend on the state: one number per block, or one per channel
            (C, 1, 1). A model wrapped by torch.compile or DistributedDataParallel is unwrapped first.

    Returns:
        A copy in eval mode whose blocks are ``PlainTransition(f, Identity())``. Its forward checks nothing, so FX,
        TorchScript and torch.ao.quantization take it.

    Raises:
        TypeError: the model is not a `PreResNet`, or a branch does not begin with batch norm and end in a convolution.
        ValueError: a λ depends on the state or on time, is 1, or varies over positions; the integrator evaluates f more
            than once; the model is a ResNeXt; a batch norm has no running statistics, or no weight to absorb a negative
            scale; a layer to be scaled is shared, or its weight is computed from others (weight norm and other
            parametrizations); the folded weights exceed the range of their dtype.

    Source: algebra from Eqs. 13 and 15; Ioffe & Szegedy 2015 for batch norm's invariance to scale.
    """
    network = unwrapped(model)
    if isinstance(network, ResNeXt29):
        raise ValueError(
            "fold needs batch norm on the state, got a ResNeXt29, whose blocks end in ReLU without one: "
            "use it unfolded, or fold a pre-activation network"
        )
    require_instance(network, PreResNet, "model", "fold takes the networks of dampode.models built on PreResNet")
    assert isinstance(network, PreResNet)
    plain = deepcopy(network).eval()
    one = torch.ones((), dtype=torch.float64, device=plain.norm.weight.device)
    scale = one
    uses = Counter(map(id, plain.state_dict(keep_vars=True).values()))
    for name, stage, index, layer in layers(plain):
        if isinstance(layer, DampedBlock):
            branch = branch_of(layer, name)
            kept, gain = step_factors(layer, name)
            _absorb_scale(branch[0], scale, name, uses)
            scale = scale * kept
            _multiply_output(branch[-1], gain / scale, name, uses)
            stage[index] = PlainTransition(branch, nn.Identity())
        else:
            for reader in _first_norms(layer):
                _absorb_scale(reader, scale, name, uses)
            scale = one
            if isinstance(layer, Transition):
                stage[index] = PlainTransition(layer.f, layer.shortcut)
    _absorb_scale(plain.norm, scale, "norm", uses)
    for key, value in plain.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"folded weights must stay in the range of {value.dtype}, {key} does not: a product of (1 − λ) in its "
                "stage is too near 0; use model.double()"
            )
    if isinstance(plain.normalize, Normalize):
        plain.normalize = _without_checks(plain.normalize)
    return plain.eval()


def step_factors(block: DampedBlock, name: str) -> tuple[Tensor, Tensor]:
    """The factors a and b of a block that computes a x + b f(x), in float64.

    Args:
        block: a damped block of one step and one evaluation of f.
        name: what an error calls the block.

    Returns:
        a and b, each of shape () or (C,).

    Raises:
        ValueError: λ depends on the state or on time, is 1 or varies over positions, or the step is not of this form.
    """
    damping = block.func.damping
    if damping.varies:
        raise ValueError(f"fold needs a fixed λ; the λ of {name} depends on the state or on time: use it unfolded")
    integrator = block.integrator
    if not isinstance(integrator, LinearizedEuler | ExponentialEuler) or integrator.steps != 1:
        raise ValueError(
            f"fold needs one step of LinearizedEuler or ExponentialEuler, {name} has {integrator}: use it unfolded"
        )
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    lam = damping(0.0, torch.zeros((), dtype=torch.float64, device=device)).detach()
    shape = (1, *lam.shape[-3:])
    if lam.numel() != (lam.shape[-3] if lam.ndim >= 3 else 1):
        raise ValueError(
            f"fold needs one λ per block, or one per channel, (C, 1, 1); {name} has shape {tuple(lam.shape)}"
        )
    zeros, ones = (torch.full(shape, value, dtype=torch.float64, device=device) for value in (0.0, 1.0))
    with torch.no_grad():
        silent = DampedODEFunc(Autonomous(torch.zeros_like), damping, block.func.rho)
        steady = DampedODEFunc(Autonomous(torch.ones_like), damping, block.func.rho)
        kept = integrator(silent, ones, *block.t_span)
        gain = integrator(steady, zeros, *block.t_span)
    if bool((kept == 0).any()):
        raise ValueError(f"fold divides by 1 − λ; the λ of {name} is 1: use it unfolded")
    return kept.flatten().squeeze(), gain.flatten().squeeze()


def _without_checks(normalize: Normalize) -> PlainNormalize:
    """The same normalization as a module that checks nothing."""
    mean, std = normalize.mean, normalize.std
    plain = PlainNormalize(mean.flatten().tolist(), std.flatten().tolist()).to(mean)
    plain.load_state_dict({"mean": mean, "std": std})
    return plain


def _first_norms(entry: nn.Module) -> list[nn.Module]:
    """Every batch norm that reads an entry's input: the branch's first, and the projection's if there is one."""
    if not isinstance(entry, Transition):
        return [next(entry.children())]
    return [next(part.children()) for part in (entry.f, entry.shortcut) if not isinstance(part, nn.Identity)]


def _absorb_scale(norm: nn.Module, scale: Tensor, name: str, uses: Counter[int]) -> None:
    """Let a batch norm that read s y read y instead: γ (s y − μ) / sqrt(v + eps) + β stays the same function of y.

    The statistics become those of y, so that training can continue from here. If the variance would become negative,
    the factor goes into γ instead.
    """
    require_instance(norm, nn.BatchNorm2d, f"the layer that reads the state in {name}", "fold needs batch norm there")
    assert isinstance(norm, nn.BatchNorm2d)
    _require_own(norm, name, uses)
    mean, var, weight = norm.running_mean, norm.running_var, norm.weight
    if mean is None or var is None:
        raise ValueError(f"fold needs batch norm with running statistics, got track_running_stats=False in {name}")
    with torch.no_grad():
        rescaled = (var.double() + norm.eps) / scale**2 - norm.eps
        into_statistics = rescaled >= 0
        mean.copy_(mean.double() / scale)
        var.copy_(torch.where(into_statistics, rescaled, var.double()))
        left = torch.where(into_statistics, scale.sign(), scale)
        if weight is not None:
            weight.copy_(weight.double() * left)
        elif bool((left != 1).any()):
            raise ValueError(f"fold needs batch norm with affine=True in {name}, so that γ can absorb a negative scale")


def _multiply_output(convolution: nn.Module, factor: Tensor, name: str, uses: Counter[int]) -> None:
    """Multiply a convolution's output by a factor: one number, or one per channel."""
    require_instance(convolution, nn.Conv2d, f"the last layer of {name}", "fold scales a convolution there")
    assert isinstance(convolution, nn.Conv2d)
    _require_own(convolution, name, uses)
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight.double() * factor.reshape(-1, 1, 1, 1))
        if convolution.bias is not None:
            convolution.bias.copy_(convolution.bias.double() * factor)


def _require_own(layer: nn.BatchNorm2d | nn.Conv2d, name: str, uses: Counter[int]) -> None:
    """Raise unless changing a layer's tensors changes only this layer."""
    own = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    for key in ("weight", "bias"):
        if getattr(layer, key) is not None and key not in own:
            raise ValueError(
                f"fold scales the {key} of a layer; that of {name} is computed from others, as weight norm does: "
                "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
            )
    if any(uses[id(tensor)] > 1 for tensor in own.values()):
        raise ValueError(f"fold scales every layer separately; a layer of {name} is used twice: give each place a copy")
