"""Segments of a solve that the backward pass computes anew: what ``checkpoint=`` counts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from dampode._checks import require_positive_int

States = tuple[Tensor, ...]


def require_segments(count: int | None, steps: int | None = None) -> None:
    """Raise unless ``count`` is None or a positive int of at most ``steps``."""
    if count is None:
        return
    require_positive_int(count, "checkpoint")
    if steps is not None and count > steps:
        raise ValueError(
            f"checkpoint must be at most steps, since a segment holds at least one step: got checkpoint={count}, "
            f"steps={steps}; about the square root of steps keeps the least memory"
        )


def segments(steps: int, count: int) -> list[range]:
    """The numbers of ``steps`` steps in ``count`` segments of nearly equal length, at most one a step."""
    count = min(count, steps)
    return [range(a, b) for a, b in pairwise(steps * k // count for k in range(count + 1))]


def recomputed(run: Callable[..., States], func: nn.Module, *states: Tensor) -> States:
    """run(*states), of which only ``states`` are kept: the backward pass runs it again, with the same random numbers.

    Hooks no saved tensor, as torch.utils.checkpoint does, which where tensors are small costs more than the second run;
    the price is that ``run`` may depend on gradients through ``states`` and the parameters of ``func`` only, which is
    checked, as is that it gives the same values again. Parameters that torch.func.functional_call has exchanged are put
    back for the second run. Derivatives of any order are had by the same means: the backward pass is itself recomputed.
    Under torch.compile it is torch.utils.checkpoint, which compiles.

    Args:
        run: the segment: tensors -> tensors.
        func: the module that ``run`` calls.
        states: what the segment begins with.

    Returns:
        run(*states).

    Raises:
        ValueError: in the backward pass: f uses a tensor that wants a gradient and is no parameter, or gives other
            values than before.
    """
    if not torch.is_grad_enabled():
        return run(*states)
    if torch.compiler.is_compiling():
        compiled: States = checkpoint(run, *states, use_reentrant=False)
        return compiled
    held = {name: p for name, p in func.named_parameters() if p.requires_grad}

    def again(params: States, *states: Tensor) -> States:
        present = dict(func.named_parameters())
        if all(present[name] is p for name, p in zip(held, params, strict=True)):
            return run(*states)
        exchanged = {f"func.{name}": p for name, p in zip(held, params, strict=True)}
        found: States = functional_call(_Called(func, run), exchanged, states)
        return found

    return _kept(again, tuple(held.values()), states)


def _kept(run: Callable[..., States], params: States, states: States) -> States:
    """run(params, *states), which the backward pass runs again where there is one."""
    if not torch.is_grad_enabled():
        return run(params, *states)
    found: States = _Recomputed.apply(run, len(states), *states, *params)
    return found


class _Called(nn.Module):
    """What runs a segment as a module, in whose ``func`` parameters can be exchanged."""

    def __init__(self, func: nn.Module, run: Callable[..., States]) -> None:
        super().__init__()
        self.func, self.run = func, run

    def forward(self, *states: Tensor) -> States:
        """The segment's values."""
        return self.run(*states)


class _Recomputed(torch.autograd.Function):
    """A segment whose graph is built in the backward pass."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., States], count: int, *tensors: Tensor) -> States:
        ctx.run, ctx.count = run, count
        ctx.surroundings = _Surroundings(tensors[0].device)
        outputs = run(tensors[count:], *tensors[:count])
        ctx.save_for_backward(*tensors, *outputs)  # the next segment begins with what this one ends with
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        states, params, found = saved[: ctx.count], saved[ctx.count : -len(grads)], saved[-len(grads) :]
        moving = [s.requires_grad for s in states]

        def pull(params: States, *tensors: Tensor) -> States:
            deep, begins = torch.is_grad_enabled(), tensors[: ctx.count]
            if not deep:
                begins = tuple(s.detach().requires_grad_(m) for s, m in zip(begins, moving, strict=True))
            with ctx.surroundings.again():
                outputs = ctx.run(params, *begins)
            _require_same(outputs, found)
            ends = [(out, g) for out, g in zip(outputs, tensors[ctx.count :], strict=True) if out.requires_grad]
            wanted = [*(s for s, m in zip(begins, moving, strict=True) if m), *params]
            roots = [out for out, _ in ends]
            _require_known(roots, [*tensors, *wanted])
            return torch.autograd.grad(roots, wanted, [g for _, g in ends], create_graph=deep, materialize_grads=True)

        got = iter(_kept(pull, params, (*states, *grads)))
        return None, None, *(next(got) if m else None for m in moving), *got


class _Surroundings:
    """The random generators' states and the autocast under which a segment ran."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]
        self._type = device.type
        self._autocast = torch.is_autocast_enabled(device.type)
        self._dtype = torch.get_autocast_dtype(device.type)

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same, with gradients on."""
        autocast = torch.autocast(self._type, self._dtype, enabled=self._autocast)
        with torch.enable_grad(), torch.random.fork_rng(self._devices), autocast:
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _require_same(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Raise where a second run differs from the first by more than a hundredth, which is no rounding."""
    with torch.no_grad():
        apart = [
            ((now - then).abs() > 0.01 * then.abs().max()).any()
            for now, then in zip(outputs, before, strict=True)
            if then.numel()
        ]
        if bool(torch.stack(apart).any()):
            raise ValueError(
                "checkpoint= needs an f that gives the same values in the backward pass as before, and it gave others: "
                "its mode, its attributes or its weights have changed since; call backward first, or leave checkpoint "
                "out"
            )


def _require_known(outputs: list[Tensor], wanted: list[Tensor]) -> None:
    """Raise where a graph leads to a tensor that wants a gradient and is not ``wanted``."""
    known = {get_gradient_edge(w).node for w in wanted if w.requires_grad}
    waiting: list[Any] = [out.grad_fn for out in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if node.name().endswith("AccumulateGrad"):
            raise ValueError(
                "checkpoint= needs every tensor that wants a gradient to be a parameter of f or λ: f uses one of "
                f"shape {tuple(node.variable.shape)} that is none; register it as an nn.Parameter, or leave "
                "checkpoint out"
            )
        waiting.extend(before for before, _ in node.next_functions)
