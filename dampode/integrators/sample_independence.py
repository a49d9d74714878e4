"""A probe of what a step size per sample needs: f, λ and ρ are functions of a sample's own state and time."""

import torch
from torch import Tensor

from dampode._checks import in_train_mode
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.call_counter import Call, CallCounter
from dampode.integrators.randomness import repeats
from dampode.integrators.tolerance import Tolerance

__all__ = ["IndependenceProbe"]

Parts = tuple[Tensor, Scalar, Tensor]

_SHARE = 0.01
"""The share of the tolerance that other samples may change in a solve."""

_ROUNDING = 100.0
"""In units of the dtype's eps: the change that counts as rounding. Sums on a GPU may differ from call to call."""


class IndependenceProbe:
    """Finds by measurement whether samples depend on one another, or f on chance.

    A probe is one more call of f, in which a random half of the samples are where they were in the last call of the
    solve, and the others where they were in its first call. Each sample must give what it gave there. Samples that have
    moved far apart since then, in state and in time, show what they have to do with one another. f meets no state that
    the solve has not given it before. An f that draws random numbers of torch is called 16 times, because the values of
    few numbers may be the same by chance.

    Probes come after 2, 32, 512, ... tried steps and at the end. The halves come from a generator of the probe's own,
    so the global random state stays as it is. Coupling that is there at none of these times and states is not found.

    Args:
        func: the damped vector field.
        calls: the calls of the solve; one has been made.
        tol: tolerance of a step.
        span: length of the solve, () or one number per sample.
    """

    _FIRST, _FACTOR = 2, 16

    def __init__(self, func: DampedODEFunc, calls: CallCounter, tol: Tolerance, span: Tensor) -> None:
        self._func, self._calls, self._tol, self._span = func, calls, tol, span.reshape(-1)
        self._first = calls.last
        self._due_at = self._FIRST
        self._generator = torch.Generator("cpu").manual_seed(0)

    def due(self, steps: int) -> bool:
        """Whether a probe is due after this many tried steps."""
        due = steps == self._due_at
        self._due_at *= self._FACTOR if due else 1
        return due

    def check(self, samples: Tensor) -> None:
        """Probe once, if f was called since the first call.

        Args:
            samples: the samples that the call counts for, N values.

        Raises:
            ValueError: a part of Eq. 4 is random, or depends on other samples.
        """
        first, last = self._first, self._calls.last
        if first is None or last is None or last is first:
            return
        moved = self._random_half(first.x)
        t, x = torch.where(moved, last.t, first.t), torch.where(moved, last.x, first.x)
        x.requires_grad_(torch.is_grad_enabled())  # f may differentiate inside
        expected = _mixed(moved, first, last)
        for got in repeats(lambda: self._func.parts(t, x), x):
            self._calls.nfe += samples.reshape(-1).to(x.device)
            if bool(self._differ(got, expected, x).any()):
                self._refuse(got, expected, t, x)

    def _random_half(self, x: Tensor) -> Tensor:
        """A mask of ⌈N / 2⌉ samples, (N, 1, ..., 1)."""
        order = torch.randperm(len(x), generator=self._generator, device="cpu")
        return (order < (len(x) + 1) // 2).to(x.device).reshape(-1, *[1] * (x.ndim - 1))

    @torch.no_grad()
    def _differ(self, got: Parts, expected: Parts, x: Tensor) -> Tensor:
        """Which samples differ by more than rounding and the tolerance in λ, ρ(λ) and f, (3, N)."""
        share = max(_SHARE * self._tol.smallest_rtol, _ROUNDING * torch.finfo(x.dtype).eps)
        size = share * _largest(torch.where(torch.isfinite(x), x, 0.0)) + _SHARE * self._tol.smallest_atol
        span = self._span.to(size).reshape(-1, *[1] * (x.ndim - 1))
        slacks: tuple[float | Tensor, ...] = (0.0, 0.0, size / span)
        return torch.stack([_differs(a, b, x, share, slack) for a, b, slack in zip(got, expected, slacks, strict=True)])

    def _refuse(self, got: Parts, expected: Parts, t: Tensor, x: Tensor) -> None:
        """Raise in words. More calls at the same place tell chance from other samples."""
        again = (self._differ(other, got, x) for other in repeats(lambda: self._func.parts(t, x), x))
        random = next((found for found in again if bool(found.any())), None)
        differ = self._differ(got, expected, x) if random is None else random
        part, sample = torch.nonzero(differ)[0].tolist()
        name = ("λ", "ρ(λ)", "f")[part]
        kind = "dropout" if random is not None else "batch norm"
        layers = [layer for found, layer in in_train_mode(self._func) if found == kind]
        cause = f", where {kind} ({layers[0]}) is in train mode" if layers else ""
        if random is not None:
            raise ValueError(
                f"a tolerance needs an f without randomness, such as dropout or noise, got {name} that gives sample "
                f"{sample} other values when called again at the same state and time{cause}: no step is short enough; "
                "call .eval() on it, draw the noise before the solve, or take a fixed step; "
                'see "My solve fails" in the documentation'
            )
        raise ValueError(
            f"a step size per sample needs an f that acts on each sample by itself at that sample's time, got {name} "
            f"that gives sample {sample} other values when other samples change{cause}; one system is x[None], of "
            f"shape {(1, *x.shape)}; for a batch take .eval(), LayerNorm or GroupNorm in place of batch norm, a fixed "
            'step, or TorchDiffEq, whose samples share their steps; see "My solve fails" in the documentation'
        )


def _mixed(moved: Tensor, first: Call, last: Call) -> Parts:
    """The parts of Eq. 4 that the moved samples had in the last call, and the others in the first one."""
    (lam0, weight0, f0), (lam1, weight1, f1) = first.parts, last.parts
    weight = torch.where(moved, torch.as_tensor(weight1).to(f1), torch.as_tensor(weight0).to(f0))
    return torch.where(moved, lam1, lam0), weight, torch.where(moved, f1, f0)


def _differs(got: Scalar, expected: Scalar, x: Tensor, share: float, slack: float | Tensor) -> Tensor:
    """Whether a sample changes by more than ``share`` of its largest value plus ``slack``, (N,).

    Values that were not finite say nothing.
    """
    a, b = (torch.as_tensor(value).to(x).expand_as(x) for value in (got, expected))
    sound = torch.isfinite(b)
    limit = share * _largest(torch.where(sound, b, 0.0)) + slack
    return (sound & ~((a - b).abs() <= limit)).reshape(len(x), -1).any(1)


def _largest(x: Tensor) -> Tensor:
    """The largest size in every sample, (N, 1, ..., 1)."""
    return x.abs().reshape(len(x), -1).amax(1).reshape(-1, *[1] * (x.ndim - 1))
