"""Segments of a solve that the backward pass computes anew: what ``checkpoint=`` counts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
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


def recomputed(run: Callable[..., States], params: Iterable[Tensor], *states: Tensor) -> States:
    """run(*states), of which only ``states`` are kept: the backward pass runs it again, with the same random numbers.

    Hooks no saved tensor, as torch.utils.checkpoint does, which where tensors are small costs more than the second run;
    the price is that ``run`` may depend on gradients through ``states`` and ``params`` only, which is checked.
    Derivatives of any order are had by the same means: the backward pass is itself recomputed. Under torch.compile it
    is torch.utils.checkpoint, which compiles.

    Args:
        run: the segment: tensors -> tensors.
        params: what else ``run`` may depend on.
        states: what the segment begins with.

    Returns:
        run(*states).

    Raises:
        ValueError: in the backward pass: f uses a tensor that wants a gradient and is none of ``params``.
    """
    if not torch.is_grad_enabled():
        return run(*states)
    if torch.compiler.is_compiling():
        compiled: States = checkpoint(run, *states, use_reentrant=False)
        return compiled
    found: States = _Recomputed.apply(run, len(states), *states, *(p for p in params if p.requires_grad))
    return found


class _Recomputed(torch.autograd.Function):
    """A segment whose graph is built in the backward pass."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., States], count: int, *tensors: Tensor) -> States:
        ctx.run, ctx.count = run, count
        ctx.surroundings = _Surroundings(tensors[0].device)
        ctx.save_for_backward(*tensors)
        return run(*tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, params = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        moving = [s.requires_grad for s in states]

        def pull(*tensors: Tensor) -> States:
            deep, begins = torch.is_grad_enabled(), tensors[: ctx.count]
            if not deep:
                begins = tuple(s.detach().requires_grad_(m) for s, m in zip(begins, moving, strict=True))
            with ctx.surroundings.again():
                outputs = ctx.run(*begins)
            ends = [(out, g) for out, g in zip(outputs, tensors[ctx.count :], strict=True) if out.requires_grad]
            wanted = [*(s for s, m in zip(begins, moving, strict=True) if m), *params]
            roots = [out for out, _ in ends]
            _require_known(roots, [*tensors, *wanted])
            return torch.autograd.grad(roots, wanted, [g for _, g in ends], create_graph=deep, materialize_grads=True)

        got = iter(recomputed(pull, params, *states, *grads))
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


def _require_known(outputs: list[Tensor], wanted: list[Tensor]) -> None:
    """Raise where a graph leads to a tensor that wants a gradient and is not ``wanted``."""
    known = {w.grad_fn for w in wanted if w.grad_fn is not None}
    leaves = {id(w) for w in wanted}
    waiting: list[Any] = [out.grad_fn for out in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if node.name().endswith("AccumulateGrad") and id(node.variable) not in leaves:
            raise ValueError(
                "checkpoint= needs every tensor that wants a gradient to be a parameter of f or λ: f uses one of "
                f"shape {tuple(node.variable.shape)} that is none; register it as an nn.Parameter, or leave "
                "checkpoint out"
            )
        waiting.extend(before for before, _ in node.next_functions)
