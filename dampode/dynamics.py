"""The damped vector field, Eq. 4."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dampode._checks import (
    CHANGED_IN_PLACE,
    has_autocast,
    name_of,
    require_broadcast,
    require_field_value,
    require_instance,
    require_unchanged,
    version,
)
from dampode.damping import Damping, Learned
from dampode.fields import VectorField, as_field
from dampode.functional import Scalar, damped_rhs
from dampode.paths import breaks_in, merged_breaks
from dampode.weighting import Weighting, unit

__all__ = ["DampedODEFunc"]

_DIFFERENTIATES = (
    "a solve calls f without gradients too: under no_grad, with recompute=, and to choose its steps. An f that "
    "differentiates inside must do so `with torch.enable_grad():`, after x = x.requires_grad_(); inference_mode does "
    "not allow it, no_grad does"
)
"""The note to torch's error where f differentiates inside and gradients are off."""
_SHARDED = (
    "fully_shard gathers the weights when the module that it was given is called; integrators call the f of a "
    "DampedODEFunc, so call fully_shard(func.f) or fully_shard(block)"
)
"""The note to torch's error where the weights of f are sharded and were not gathered."""


class DampedODEFunc(nn.Module):
    """dx/dt = −λ x + ρ(λ) f(x, t), Eq. 4: the vector field that every integrator takes, torchdiffeq's included.

    Args:
        f: a `VectorField`, or any callable of the state alone. It must keep the state's shape, dtype and device, and
            must not change the state in place.
        damping: λ; None makes a new ``Learned(0.2, 0.25)`` for this instance, ``Constant(0.0)`` gives dx/dt = ρ f.
        rho: the weight function ρ: `weighting.unit`, `weighting.one_plus` or any function of λ that broadcasts.

    Raises:
        TypeError: damping is not a `Damping`, or f or rho is not callable.

    Source: Yang et al. 2020, Eq. 4.
    """

    def __init__(
        self,
        f: VectorField | Callable[[Tensor], Tensor],
        damping: Damping | None = None,
        rho: Weighting = unit,
    ) -> None:
        super().__init__()
        if damping is None:
            damping = Learned(0.2, 0.25)
        require_instance(damping, Damping, "damping", "wrap a number in Constant(value)")
        if not callable(rho):
            raise TypeError(f"rho must be callable, got {type(rho).__name__}; take one from dampode.weighting")
        self.f = as_field(f)
        self.damping = damping
        self.rho = rho

    def parts(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Scalar, Tensor]:
        """The three parts of Eq. 4 at one state: (λ, ρ(λ), f(x, t)).

        Args:
            t: depth time, a float, a 0-dim tensor or (N, 1, ..., 1).
            x: state, (N, *S).

        Returns:
            λ and ρ(λ), which broadcast to x, and f(x, t), (N, *S).

        Raises:
            ValueError: f changes the state's shape or device, or the state in place, or λ or ρ(λ) does not broadcast.
            TypeError: f changes the state's dtype outside autocast.
        """
        lam = self.lam(t, x)
        fx = self.field(t, x)
        return lam, self.weight(lam, x), fx

    def lam(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ(t, x) alone, checked.

        Args:
            t: depth time, as in `parts`.
            x: state, (N, *S).

        Raises:
            ValueError: λ does not broadcast to x.
        """
        with _without_cache(x):
            lam: Tensor = self.damping(t, x)
        require_broadcast(lam, x, "λ")
        return lam

    def field(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t) alone, (N, *S), checked.

        Changes in place are found by torch's version counter. Where there is none (compiled, exported, in inference
        mode, under vmap), f gets a copy of the state.

        Args:
            t: depth time, as in `parts`.
            x: state, (N, *S).

        Raises:
            ValueError: f changes the state's shape or device, or the state itself in place.
            TypeError: f changes the state's dtype outside autocast.
        """
        before = version(x)
        # compiled code drops the copy if f does not change it
        with _without_cache(x):
            try:
                fx: Tensor = self.f(t, x.clone() if before is None else x)
            except RuntimeError as error:
                if "does not require grad" in str(error):
                    error.add_note(_DIFFERENTIATES)
                if "leaf Variable that requires grad is being used in an in-place operation" in str(error):
                    raise ValueError(CHANGED_IN_PLACE) from error
                if "mixed torch.Tensor and DTensor" in str(error):
                    error.add_note(_SHARDED)
                raise
        require_field_value(x, fx)
        require_unchanged(x, before)
        return fx

    def weight(self, lam: Tensor, x: Tensor) -> Scalar:
        """ρ(λ), a number or a tensor that broadcasts to x, in λ's dtype.

        Args:
            lam: λ, broadcast to x.
            x: state, (N, *S).

        Raises:
            ValueError: ρ(λ) does not broadcast to x.
            TypeError: rho returns neither a number nor a tensor.
        """
        weight = self.rho(lam)
        if isinstance(weight, Tensor):
            require_broadcast(weight, x, "ρ(λ)")
            return weight.to(lam.dtype)
        require_instance(weight, (float, int), "ρ(λ)", "rho maps λ to a number or a tensor")
        return float(weight)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """dx/dt at (t, x), (N, *S)."""
        lam, weight, fx = self.parts(t, x)
        return damped_rhs(x, lam, weight, fx)

    def breaks(self) -> Tensor | None:
        """The times at which f, or a path in λ, jumps or has a kink, (J,) or (N, J) padded with NaN; None without."""
        return merged_breaks(self.f.breaks(), breaks_in(self.damping))

    def extra_repr(self) -> str:
        """The name of the weight function."""
        return f"rho={name_of(self.rho)}"


def _without_cache(x: Tensor) -> AbstractContextManager[object]:
    """Autocast as it is, but without its cache.

    The cache keeps one half-precision copy of each weight for a whole solve. The gradients of all steps would be summed
    in half precision, which loses half of the sum over 1,000 steps.
    """
    if not has_autocast(x) or not torch.is_autocast_cache_enabled():
        return nullcontext()
    kind = x.device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)
