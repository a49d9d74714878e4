"""Less memory for gradients: the backward pass recomputes the steps of a solve, one segment after another."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from dampode._checks import require_positive_int

__all__ = ["OutsideTensors", "recomputed", "require_segments", "segments"]

States = tuple[Tensor, ...]


def require_segments(count: int | None, steps: int | None = None) -> None:
    """Raise unless ``count`` is None or a positive int of at most ``steps``."""
    if count is None:
        return
    require_positive_int(count, "recompute")
    if steps is not None and count > steps:
        raise ValueError(
            f"recompute must be at most steps, since a segment holds at least one step: got recompute={count}, "
            f"steps={steps}; about the square root of steps keeps the least memory"
        )


def segments(steps: int, count: int) -> list[range]:
    """The numbers of ``steps`` steps in ``count`` segments of nearly equal length, or in one segment per step."""
    count = min(count, steps)
    return [range(a, b) for a, b in pairwise(steps * k // count for k in range(count + 1))]


def recomputed(run: Callable[..., States], func: nn.Module, *states: Tensor) -> States:
    """run(*states), without keeping what the backward pass needs: the backward pass runs it again.

    Only ``states`` are kept. The second run draws the same random numbers. Parameters that torch.func.functional_call
    has exchanged are put back for it. Derivatives of any order work, because the backward pass is itself recomputed.

    torch.utils.checkpoint hooks every tensor that autograd saves. For small tensors that costs more than the second
    run, so it is used under torch.compile only, which supports nothing else. Without hooks, gradients reach only
    ``states`` and the parameters of ``func``. Both this and the equality of the two runs' values are checked.

    Args:
        run: the segment, from tensors to tensors.
        func: the module that ``run`` calls.
        states: what the segment begins with.

    Returns:
        run(*states).

    Raises:
        ValueError: f uses a tensor that wants a gradient and is not a parameter; in the backward pass, f gives other
            values than before.
    """
    if not torch.is_grad_enabled():
        return run(*states)
    if torch.compiler.is_compiling():
        compiled: States = checkpoint(run, *states, use_reentrant=False)
        return compiled
    trained = {name: p for name, p in func.named_parameters() if p.requires_grad}
    if not trained and not any(state.requires_grad for state in states):
        return _without_graph(run, states)

    def run_with(params: States, *states: Tensor) -> States:
        present = dict(func.named_parameters())
        if all(present[name] is p for name, p in zip(trained, params, strict=True)):
            return run(*states)
        exchanged = {f"func.{name}": p for name, p in zip(trained, params, strict=True)}
        outputs: States = functional_call(_Segment(func, run), exchanged, states)
        return outputs

    return _recomputed(run_with, tuple(trained.values()), states)


def _without_graph(run: Callable[..., States], states: States) -> States:
    """run(*states), whose known inputs want no gradient, or a ValueError if another tensor wants one."""
    outputs = run(*states)
    outside = OutsideTensors(outputs, states)  # f may have made a state want a gradient
    outputs = tuple(out.detach() for out in outputs)
    outside.require_none("recompute=")
    return outputs


def _recomputed(run: Callable[..., States], params: States, states: States) -> States:
    """run(params, *states), which the backward pass runs again if there is one."""
    if not torch.is_grad_enabled():
        return run(params, *states)
    outputs: States = _Recomputed.apply(run, len(states), *states, *params)
    return outputs


class _Segment(nn.Module):
    """A segment as a module, so that the parameters of its ``func`` can be exchanged."""

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
        ctx.conditions = _Conditions(tensors[0].device)
        # detached, because a part of a state that wants a gradient would want one too, but without a graph
        outputs = run(tensors[count:], *(state.detach() for state in tensors[:count]))
        # keeping the outputs costs nothing: the next segment begins with them and keeps them too
        ctx.save_for_backward(*tensors, *outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        states, params, first_outputs = saved[: ctx.count], saved[ctx.count : -len(grads)], saved[-len(grads) :]
        wanted = [s.requires_grad for s in states]

        def vjp(params: States, *tensors: Tensor) -> States:
            create_graph, begins = torch.is_grad_enabled(), tensors[: ctx.count]
            if not create_graph:
                begins = tuple(s.detach().requires_grad_(w) for s, w in zip(begins, wanted, strict=True))
            with ctx.conditions.restored():
                outputs = ctx.run(params, *begins)
            _require_same(outputs, first_outputs)
            ends = [(out, g) for out, g in zip(outputs, tensors[ctx.count :], strict=True) if out.requires_grad]
            inputs = [*(s for s, w in zip(begins, wanted, strict=True) if w), *params]
            roots, seeds = [out for out, _ in ends], [g for _, g in ends]
            outside = OutsideTensors(roots, [*tensors, *inputs])
            got = torch.autograd.grad(roots, inputs, seeds, create_graph=create_graph, materialize_grads=True)
            if not create_graph:  # the first backward pass checks for the second
                del outputs, ends, roots
                outside.require_none("recompute=")
            return got

        got = iter(_recomputed(vjp, params, (*states, *grads)))
        return None, None, *(next(got) if w else None for w in wanted), *got


class _Conditions:
    """The states of the random generators and of autocast under which a segment ran first."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]
        self._autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        if torch.amp.is_autocast_available(device.type):
            dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
            # a new context every time: one that is entered twice, as in a second backward pass, stays open
            self._autocast = partial(torch.autocast, device.type, dtype, enabled)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context with the same conditions, with gradients on."""
        with torch.enable_grad(), torch.random.fork_rng(self._devices), self._autocast():
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _require_same(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Raise if a second run differs from the first by more than a hundredth, which is more than rounding."""
    with torch.no_grad():
        apart = [
            ((now - then).abs() > 0.01 * then.abs().max()).any()
            for now, then in zip(outputs, before, strict=True)
            if then.numel()
        ]
        if bool(torch.stack(apart).any()):
            raise ValueError(
                "recompute= needs an f that gives the same values in the backward pass as before, and it gave others: "
                "its mode, its attributes or its weights have changed since; call backward first, or leave recompute "
                "out"
            )


class OutsideTensors:
    """The tensors that want a gradient, to which a graph leads although they are not among its known inputs.

    A tensor that f itself makes, to differentiate with respect to it, ends with the graph. So `require_none` is called
    when no output with the graph is left.

    Args:
        outputs: tensors with the graph.
        known: the tensors from which gradients may be taken.
    """

    def __init__(self, outputs: Iterable[Tensor], known: Iterable[Tensor]) -> None:
        seen = {get_gradient_edge(tensor).node for tensor in known if tensor.requires_grad}
        waiting: list[Any] = [out.grad_fn for out in outputs]
        self._found: list[weakref.ref[Tensor]] = []
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name().endswith("AccumulateGrad"):
                self._found.append(weakref.ref(node.variable))
            waiting.extend(before for before, _ in node.next_functions)

    def require_none(self, option: str) -> None:
        """Raise if there is any, in the name of the option that cannot reach it."""
        if any(found() is not None for found in self._found):
            gc.collect()  # a tensor in a reference cycle outlives its graph until then
        for found in self._found:
            tensor = found()
            if tensor is not None:
                raise ValueError(
                    f"{option} needs every tensor that wants a gradient to be a parameter of f or λ: f uses one of "
                    f"shape {tuple(tensor.shape)} that is none; register it, or the module that holds it, as a part of "
                    f"f, make it a part of the state, or leave {option} out"
                )
