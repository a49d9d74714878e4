"""Random calls of `odeint` and `solve`."""

import math
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.fuzz.dependence import OneByOne, differs_from, tolerances_apart
from benchmarks.fuzz.fields import FIELDS, Kind
from benchmarks.fuzz.oracle import Call, Fault
from benchmarks.fuzz.reference import reference
from dampode import DampedODEFunc, Solution, odeint, solve
from dampode.damping import Constant, Damping, Gated, Learned
from dampode.integrators import (
    ETD2RK,
    AdaptiveExponential,
    ExponentialEuler,
    FixedStep,
    HochbruckOstermann3,
    HochbruckOstermann4,
    Integrator,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    Status,
    TorchDiffEq,
)
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.weighting import one_plus, unit

__all__ = ["solve_call"]

LIMIT = 100.0
"""Tolerances that an answer may be off."""
SHAPES: list[tuple[int, ...]] = [(1,), (3,), (1, 2), (2, 3), (4, 2), (2, 2, 3), (2, 1, 3, 3), (1, 2, 2, 2)]
EMPTY: list[tuple[int, ...]] = [(0,), (0, 3), (2, 0), ()]
LAMS = [0.0, 0.0, 0.2, 1.0, 10.0, 1e3, 1e6]
TO_TOLERANCE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")
WITH_FIXED_STEP = ("euler", "midpoint", "heun3", "rk4", "explicit_adams", "implicit_adams")
FIXED: list[type[FixedStep]] = [
    ExponentialEuler,
    LinearizedEuler,
    ETD2RK,
    HochbruckOstermann3,
    HochbruckOstermann4,
    Krogstad4,
]
MODES = ("grad", "no_grad", "inference_mode", "backward", "backward, times")
BAD_TIMES = ("repeated", "one", "NaN", "infinite", "unsorted", "integers", "2-D", "a list")


class StateAsDamping(Damping):
    """λ = x, which is negative for some states."""

    depends_on_state, depends_on_time = True, False

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ(x)."""
        return x


@dataclass
class Setting:
    """The arguments of one call, before they are made."""

    r: random.Random
    field: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    damping: str
    rho: str
    times: str
    integrator: str
    mode: str
    device: str
    function: str

    @property
    def kind(self) -> Kind:
        """The kind of the field."""
        return FIELDS[self.field]


def solve_call(seed: int) -> Call:
    """The call of a seed."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    setting = _setting(r)
    build = _built(setting, seed)
    words = ", ".join(f"{name}={value}" for name, value in vars(setting).items() if name != "r")

    def run() -> str:
        return _run(setting, *build())

    def own_error() -> Exception | None:
        func, x, times, _ = build()
        try:
            func.f(float(torch.as_tensor(times).flatten()[0]), x.clone())
        except Exception as error:
            return error
        return None

    return Call(words, run, own_error)


def _setting(r: random.Random) -> Setting:
    """Random arguments. Three in four calls are valid but for the field."""
    odd = r.random() < 0.25
    field = r.choice([name for name, kind in FIELDS.items() if odd or not kind.invalid])
    shape = r.choice(SHAPES + (EMPTY if odd else []))
    if FIELDS[field].images:
        shape = r.choice([s for s in SHAPES if len(s) == 4])
    if FIELDS[field].pairs:
        shape = r.choice([s for s in SHAPES if len(s) > 1 and s[-1] == 2])
    other = [torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool]
    dtype = r.choice(other) if odd and r.random() < 0.3 else r.choice([torch.float32, torch.float64, torch.float64])
    dampings = ["float", "float", "float", "tensor", "learned", "gated", "gated, pooled"]
    dampings += ["tensor of another shape", "gated by other channels", "negative", "the state"] if odd else []
    rhos = ["unit", "unit", "one_plus", "own", "a constant"] + (["a string", "another shape"] if odd else [])
    times = ["increasing"] * 5 + ["decreasing", "decreasing", "far", "long", "short", "float32", "several"]
    times += list(BAD_TIMES) if odd else []
    integrators = ["AdaptiveExponential"] * 3 + ["KenCarp4"] * 2 + ["fixed"] * 2 + ["torchdiffeq", "torchdiffeq, fixed"]
    integrators += ["a class", "a string"] if odd and r.random() < 0.2 else []
    return Setting(
        r,
        field,
        shape,
        dtype,
        r.choice(dampings),
        r.choice(rhos),
        r.choice(times),
        r.choice(integrators),
        r.choice(MODES),
        "meta" if odd and r.random() < 0.1 else "cpu",
        r.choice(["odeint", "solve"]),
    )


def _built(s: Setting, seed: int) -> Callable[[], tuple[DampedODEFunc, Tensor, Any, Any]]:
    """A function that makes the arguments, the same ones in every call."""

    def build() -> tuple[DampedODEFunc, Tensor, Any, Any]:
        s.r.seed(seed + 1)
        torch.manual_seed(seed)
        x = _state(s)
        field = s.kind.field(s.shape, s.dtype, s.r)
        func = DampedODEFunc(field, _damping(s), _rho(s))
        times = _times(s)
        integrator = _integrator(s, times)
        return func.to(s.device), x.to(s.device), times, integrator

    return build


def _state(s: Setting) -> Tensor:
    x = torch.randn(s.shape, dtype=torch.float64) * s.r.choice([0.0, 0.1, 1.0, 1.0, 1.0, 10.0])
    if s.r.random() < 0.03:
        x = torch.where(torch.rand(s.shape) < 0.3, torch.nan, x)
    return x.to(s.dtype)


def _damping(s: Setting) -> Damping:
    lam, channels = s.r.choice(LAMS), s.shape[1] if len(s.shape) > 1 else 1
    dtype = s.dtype if s.dtype.is_floating_point else torch.float64
    per_axis = (s.shape[1], *[1] * (len(s.shape) - 2)) if len(s.shape) > 1 else ()
    match s.damping:
        case "float":
            return Constant(lam)
        case "tensor":
            return Constant(lam * torch.rand(s.r.choice([(), per_axis, s.shape]), dtype=dtype))
        case "tensor of another shape":
            return Constant(torch.rand(7, 5, 3, dtype=dtype))
        case "learned":
            return Learned(0.2, 3.0, shape=s.r.choice([(), per_axis])).to(dtype)
        case "gated" | "gated, pooled":
            return Gated(max(channels, 1), pooled=s.damping != "gated").to(dtype)
        case "gated by other channels":
            return Gated(channels + 1).to(dtype)
        case "negative":
            return Constant(-1.0)
    return StateAsDamping()


def _rho(s: Setting) -> Callable[[Any], Any]:
    return {
        "unit": unit,
        "one_plus": one_plus,
        "own": lambda lam: lam / (1 + lam),
        "a constant": lambda lam: 0.5,
        "a string": lambda lam: "1",
        "another shape": lambda lam: torch.ones(5, 7, 3),
    }[s.rho]


def _times(s: Setting) -> Any:
    start, span = s.r.choice([0.0, 0.0, 0.3]), s.r.choice([1e-3, 0.1, 1.0, 1.0, 3.0, 10.0])
    inner = sorted(s.r.random() for _ in range(s.r.randint(0, 2)))
    t = torch.tensor([start + span * share for share in (0.0, *inner, 1.0)], dtype=torch.float64)
    made: dict[str, Callable[[], Any]] = {
        "decreasing": lambda: t.flip(0),
        "far": lambda: t + s.r.choice([1e3, -1e6]),
        "long": lambda: t * s.r.choice([1e3, 1e6]),
        "short": lambda: t * 1e-9,
        "float32": t.float,
        "several": lambda: torch.linspace(start, start + span, 12, dtype=torch.float64),
        "repeated": lambda: torch.cat((t[:1], t)),
        "one": lambda: t[:1],
        "NaN": lambda: torch.cat((t, torch.tensor([torch.nan]))),
        "infinite": lambda: torch.cat((t, torch.tensor([torch.inf]))),
        "unsorted": lambda: torch.cat((t, t[:1] + 0.1 * span)),
        "integers": lambda: torch.arange(3),
        "2-D": lambda: t.expand(7, -1),  # no state has 7 samples
        "a list": t.tolist,
    }
    return made[s.times]() if s.times in made else t


def _integrator(s: Setting, times: Any) -> Any:
    r, ends = s.r, torch.as_tensor(times).double().flatten()[[0, -1]].nan_to_num()
    span = float(ends.diff().abs().clamp(max=1e6))
    rtol = 10.0 ** r.uniform(-9, -3)
    tolerances = (rtol, rtol * r.choice([1e-3, 1.0]))
    settings: dict[str, Any] = {"max_steps": r.choice([50, 2000, 2000])}
    if r.random() < 0.2:
        settings["first_step"] = r.choice([1e-6, 0.1, 1e3])
    if r.random() < 0.2:
        settings["max_step"] = r.choice([1e-2, 0.3, 1e3])
    recompute = r.choice([None, None, 1, 3])
    match s.integrator:
        case "AdaptiveExponential":
            return AdaptiveExponential(*tolerances, **settings, recompute=recompute)
        case "KenCarp4":
            return KenCarp4(*tolerances, **settings)
        case "fixed":
            return r.choice(FIXED)(r.choice([3, 10, 30]), recompute)
        case "torchdiffeq":
            method, adjoint = r.choice(TO_TOLERANCE), r.random() < 0.2
            options = None if method == "scipy_solver" else {"max_num_steps": 2000}
            return TorchDiffEq(method, *tolerances, adjoint=adjoint, options=options)
        case "torchdiffeq, fixed":
            return TorchDiffEq(r.choice(WITH_FIXED_STEP), *tolerances, options={"step_size": max(span / 50, 1e-12)})
        case "a class":
            return AdaptiveExponential
    return "dopri5"


def _run(s: Setting, func: DampedODEFunc, x: Tensor, times: Any, integrator: Any) -> str:
    """Make the call and check its answer."""
    backward = s.mode.startswith("backward") and x.is_floating_point()
    x0 = x.clone().requires_grad_(backward)
    t = times
    if s.mode == "backward, times" and isinstance(times, Tensor) and times.is_floating_point():
        t = times.clone().requires_grad_()
    contexts: dict[str, AbstractContextManager[object]] = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
    }
    with contexts.get(s.mode, nullcontext()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if s.function == "odeint":
            xs, solution = odeint(func, x0, t, integrator), None
        else:
            solution = solve(func, x0, t, integrator)
            xs = solution.x
    sound = _sound(solution, xs)
    if bool(sound.any()):
        _require_refused(s, x, times, integrator)
    if xs.shape != (len(times), *x.shape) or xs.dtype != x.dtype:
        raise Fault("the answer has another shape or dtype", f"{tuple(xs.shape)}, {xs.dtype}")
    if not torch.allclose(xs[0], x, 0, 0, equal_nan=True):
        raise Fault(f"the first state is not x0: {_name(integrator)}", "")
    if bool((~torch.isfinite(xs[:, sound])).any()):
        raise Fault(f"NaN called SUCCESS: {_name(integrator)}, {s.field}", "")
    _require_sure(s, func, x, times, integrator, xs, sound)
    warned = any(issubclass(w.category, UserWarning) for w in caught)
    compared = s.kind.smooth and not warned and _is_compared(s, func, x, times, integrator, xs.detach(), sound)
    distrusted = any(issubclass(w.category, StiffnessWarning) for w in caught)
    if backward and not distrusted and bool(sound.all()) and xs.requires_grad and _to_tolerance(integrator):
        _require_finite_gradients(s, integrator, func, x0, t, xs)
    if solution is not None and not bool(sound.all()):
        return "failed: " + ", ".join(sorted({status.name for status in solution.status} - {"SUCCESS"}))
    return "answered as the reference" if compared else "answered"


def _sound(solution: Solution | None, xs: Tensor) -> Tensor:
    """Which samples were solved, (N,); odeint answers for all of them."""
    if solution is None:
        return torch.ones(xs.shape[1], dtype=torch.bool)
    return torch.tensor([status is Status.SUCCESS for status in solution.status], dtype=torch.bool)


def _changes_a_copy(s: Setting, x: Tensor) -> bool:
    """Whether a field that changes its state in place changes a copy: of a complex state, or in inference mode."""
    return s.field == "in place" and (s.mode == "inference_mode" or x.is_complex())


def _require_refused(s: Setting, x: Tensor, times: Any, integrator: Any) -> None:
    """Raise a `Fault` where bad input got an answer."""
    reasons = {
        "an invalid field": s.kind.invalid and not _changes_a_copy(s, x),
        "bad times": s.times in BAD_TIMES,
        "a wrong damping": s.damping in ("tensor of another shape", "gated by other channels", "negative"),
        "a wrong rho": s.rho in ("a string", "another shape"),
        "no integrator": not isinstance(integrator, Integrator),
        "an empty state": x.numel() == 0 or x.ndim == 0,
        "a state that is not floating": not (x.is_floating_point() or x.is_complex()),
    }
    for reason, bad in reasons.items():
        if bad:
            what = s.field if reason == "an invalid field" else s.times
            raise Fault(f"bad input passes: {reason}: {_name(integrator)}", what)


def _require_sure(
    s: Setting, func: DampedODEFunc, x: Tensor, times: Tensor, integrator: Any, xs: Tensor, sound: Tensor
) -> None:
    """Raise a `Fault` where an answer depends on coupling or chance.

    Coupling that changes nothing in this call, as between equal samples, and noise below the tolerance are no faults.
    Nor is coupling where the samples hardly move, so that a step size per sample gives the answer of the whole batch.
    """
    per_sample = isinstance(integrator, AdaptiveExponential | KenCarp4)
    if s.kind.coupled and per_sample:
        if _is_of_the_batch(func, x, times, integrator, xs, sound):
            return
        reason, other = "coupled samples", DampedODEFunc(OneByOne(func.f), func.damping, func.rho)
    elif s.kind.drawn and _to_tolerance(integrator):
        reason, other = "random values", func
    else:
        return
    if x.device.type == "cpu" and differs_from(other, x, times, integrator, xs, sound, LIMIT):
        raise Fault(f"bad input passes: {reason}: {_name(integrator)}", s.field)


def _is_of_the_batch(func: DampedODEFunc, x: Tensor, times: Tensor, integrator: Any, xs: Tensor, sound: Tensor) -> bool:
    """Whether the answer is the reference of the whole batch to within a tenth of `LIMIT`."""
    exact = reference(func, x, times, stiff=True) if bool(torch.isfinite(x).all()) else None
    return exact is not None and bool((tolerances_apart(integrator, xs.detach(), exact.x)[:, sound] < LIMIT / 10).all())


def _changes(damping: str) -> bool:
    """Whether λ depends on the state, so that no bound of λ at the start holds for all steps."""
    return damping.startswith("gated") or damping == "the state"


def _to_tolerance(integrator: Any) -> bool:
    """Whether the integrator keeps a tolerance."""
    if isinstance(integrator, TorchDiffEq):
        return integrator.method in TO_TOLERANCE
    return isinstance(integrator, AdaptiveExponential | KenCarp4)


def _name(integrator: Any) -> str:
    """The integrator in the name of a fault."""
    if isinstance(integrator, TorchDiffEq):
        return f"TorchDiffEq {integrator.method}"
    return type(integrator).__name__


def _is_compared(
    s: Setting, func: DampedODEFunc, x: Tensor, times: Tensor, integrator: Any, xs: Tensor, sound: Tensor
) -> bool:
    """Whether there is a reference. An answer that is off by more than `LIMIT` tolerances raises a `Fault`.

    So does a fixed step that is stable by a wide margin and whose result is not finite.
    """
    if x.device.type != "cpu" or not bool(torch.isfinite(x).all()):
        return False
    lam = float(func.lam(times[0], x).detach().abs().max())
    span = float((times[-1] - times[0]).abs())
    stiff = math.isinf(s.kind.lipschitz) or (lam * span > 100)
    if not _to_tolerance(integrator):
        if not bool(sound.all()) and isinstance(integrator, FixedStep) and not _changes(s.damping):
            weight = float(torch.as_tensor(func.weight(func.lam(times[0], x), x)).detach().max())
            longest = float(times.diff().abs().max()) / integrator.steps
            if longest * (lam + weight * s.kind.lipschitz) < 0.5 and span < 20 and times[-1] > times[0]:
                raise Fault(f"not finite at a stable step: {_name(integrator)}", "")
        return False
    if not bool(sound.any()):
        return False
    exact = reference(func, x, times, stiff)
    if exact is None:
        return False
    off = (tolerances_apart(integrator, xs, exact.x) / exact.condition[:, None])[:, sound]
    if float(off.max()) > LIMIT:
        place = "at the last time" if float(off[-1].max()) > LIMIT else "between"
        stiffness = ", stiff" if stiff else ""
        first = ", first_step" if getattr(integrator, "first_step", None) is not None else ""
        detail = f"{float(off.max()):.3g} tolerances, condition {float(exact.condition[-1]):.3g}, {integrator}"
        raise Fault(f"wrong answer called SUCCESS, {place}: {_name(integrator)}{stiffness}{first}, {s.field}", detail)
    return True


def _require_finite_gradients(
    s: Setting, integrator: Any, func: DampedODEFunc, x0: Tensor, t: Tensor, xs: Tensor
) -> None:
    """Raise a `Fault` if the gradients of a finite answer are not finite."""
    wanted = [p for p in (x0, t, *func.parameters()) if p.requires_grad]
    gradients = torch.autograd.grad(xs[-1].sum(), wanted, allow_unused=True)
    if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
        raise Fault(f"gradients not finite: {_name(integrator)}, {s.field}", "")
