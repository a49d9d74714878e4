"""Random problems solved to a tolerance: how many answers are wrong although their status is SUCCESS.

    python -m benchmarks.random_problems --write          2,000 problems, about 45 minutes on one core
    python -m benchmarks.random_problems --problems 50    prints only

With ``--write`` a run continues after the last problem in the result file, if that begins with the same seed.

The seed of a problem defines its field, λ, ρ, span, tolerance, dtype and, for every fourth problem, a first step that
is up to the whole span. The reference is SciPy's DOP853 or, where λ or the field is stiff, Radau, at a tolerance of
1e-10. A problem whose reference needs too many calls is left out. A sample is a fault if its status is SUCCESS and its
last state is off by more than 100 times atol + rtol max|x|, and by more than what a change of the initial state by the
same amount does.
"""

import json
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedODEFunc, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, ExponentialAdams, KenCarp4, Status
from dampode.weighting import one_plus, unit

KINDS = ("mlp", "forced", "pulse", "predator", "oscillator", "rotation", "stiff", "late", "periodic", "decay")
LIMIT = 100.0
NAME = "random_problems"
REFERENCE_CALLS = 200_000
"""Calls of f after which a reference gives up."""


class NoReferenceError(RuntimeError):
    """The reference of a problem needs too many calls of f."""


class RandomField(VectorField):
    """A field of a kind with random weights, on states (N, d)."""

    def __init__(self, kind: str, d: int, r: random.Random) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(r.randrange(2**31))
        self.kind, self.gain = kind, 10.0 ** r.uniform(-0.5, 0.8)
        self.w = torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
        self.phase = 6.3 * torch.rand(d, generator=generator, dtype=torch.float64)
        self.omega, self.center, self.width = (
            10.0 ** r.uniform(-0.5, 1.5),
            r.uniform(0.2, 0.9),
            10.0 ** r.uniform(-2, -0.5),
        )

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        time = torch.as_tensor(t, dtype=x.dtype)
        w, phase = self.w.to(x.dtype), self.phase.to(x.dtype)
        mixed, drive = torch.tanh(x @ w), torch.sin(self.omega * time + phase)
        fields: dict[str, Callable[[], Tensor]] = {
            "mlp": lambda: self.gain * mixed,
            "forced": lambda: self.gain * torch.tanh(x @ w + drive),
            "pulse": lambda: mixed + 5 * torch.exp(-(((time - self.center) / self.width) ** 2)) * torch.ones_like(x),
            "predator": lambda: self.gain * x * (1 - x.roll(1, -1)) / (1 + 0.1 * x * x),
            "oscillator": lambda: self.gain * (x.roll(1, -1) * (1 - 0.1 * x * x)),
            "rotation": lambda: self.omega * (x @ (w - w.T)),
            "stiff": lambda: 100 * self.gain * (torch.cos(time) - x) + mixed,
            "late": lambda: mixed - 200 * torch.sigmoid(40 * (time - self.center)) * x,
            "periodic": lambda: self.gain * drive + 0 * x,
            "decay": lambda: self.gain * torch.exp(-20 * time) * torch.cos(x + phase),
        }
        return fields[self.kind]()


@dataclass(frozen=True)
class Problem:
    """One random problem."""

    func: DampedODEFunc
    x: Tensor
    t: Tensor
    settings: dict[str, Any] = field(default_factory=dict)


def problem_of(seed: int) -> Problem:
    """The problem of a seed."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    d, n, kind = r.choice([1, 2, 3, 6]), 2, r.choice(KINDS)
    lam: float | Tensor = r.choice([0.0, 0.0, 10.0 ** r.uniform(-1, 1), 10.0 ** r.uniform(1, 4)])
    if r.random() < 0.25:
        lam = 10.0 ** (5 * torch.rand(d, dtype=torch.float64) - 1)
    dtype = torch.float64 if r.random() < 0.8 else torch.float32
    rho = one_plus if r.random() < 0.15 and float(torch.as_tensor(lam).max()) < 100 else unit
    span, tol = 10.0 ** r.uniform(-1, 0.7), 10.0 ** r.uniform(-7 if dtype == torch.float64 else -4.5, -2)
    settings: dict[str, Any] = {"rtol": tol, "atol": tol * 10.0 ** r.uniform(-3, 0), "max_steps": 1000}
    if r.random() < 0.25:
        settings["first_step"] = span * 10.0 ** r.uniform(-3, 0)
    func = DampedODEFunc(RandomField(kind, d, r), Constant(lam), rho)
    return Problem(func, torch.randn(n, d, dtype=dtype), torch.tensor([0.0, span], dtype=torch.float64), settings)


def reference(problem: Problem, x: Tensor) -> Tensor:
    """The largest size on the way and the last state of every sample by SciPy, (2, N, d) float64."""
    span, found = float(problem.t[-1]), []
    stiff = float(problem.func.damping(0.0, x).max()) > 100 or problem.func.f.kind in ("stiff", "late")
    calls = 0
    for sample in x.double():

        def rhs(t: float, y: NDArray[Any]) -> NDArray[Any]:
            nonlocal calls
            calls += 1
            if calls > REFERENCE_CALLS:
                raise NoReferenceError
            with torch.no_grad():
                dx: Tensor = problem.func(t, torch.from_numpy(y)[None])
            return dx.numpy().ravel()

        s = solve_ivp(
            rhs, (0.0, span), sample.numpy(), "Radau" if stiff else "DOP853", rtol=1e-10, atol=1e-12, max_step=span / 20
        )
        found.append(np.stack((np.abs(s.y).max(1), s.y[:, -1])))
    return torch.from_numpy(np.stack(found, 1))


def outcomes(seed: int) -> tuple[dict[str, list[str]], str]:
    """For every integrator the outcome of each sample; the problem in words."""
    problem = problem_of(seed)
    largest, exact = reference(problem, problem.x)
    allowed = problem.settings["atol"] + problem.settings["rtol"] * largest.amax(1, keepdim=True)  # (N, 1)
    moved = problem.x.double() + allowed
    amplified = ((reference(problem, moved)[1] - exact).abs().amax(1, keepdim=True) / allowed).clamp(min=1.0)
    found: dict[str, list[str]] = {}
    for kind in (ExponentialAdams, AdaptiveExponential, KenCarp4):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solution = solve(problem.func, problem.x, problem.t, kind(**problem.settings))
        off = ((solution.x[-1].double() - exact).abs() / (allowed * amplified)).amax(1)
        found[kind.__name__] = [
            ("right" if error <= LIMIT else "wrong") if status is Status.SUCCESS else status.name
            for status, error in zip(solution.status, off.tolist(), strict=True)
        ]
    f = problem.func.f
    return found, f"{f.kind}, λ {problem.func.damping}, span {float(problem.t[-1]):.3g}, {problem.settings}"


@dataclass(frozen=True)
class Args:
    """How many problems."""

    problems: int = 2000
    """number of problems"""
    seed: int = 0
    """seed of the first problem; the next have the next seeds"""
    write: bool = False
    """whether to write the counts to benchmarks/results"""


@dataclass
class Outcomes:
    """What is known of the problems so far."""

    problems: int
    counts: dict[str, Counter[str]]
    wrong: dict[str, list[int]]
    left_out: list[int]

    def add(self, seed: int) -> None:
        """Solve the problem of a seed, and print a wrong answer."""
        self.problems += 1
        try:
            found, words = outcomes(seed)
        except NoReferenceError:
            self.left_out.append(seed)
            return
        for name, samples in found.items():
            self.counts.setdefault(name, Counter()).update(samples)
            if "wrong" in samples:
                self.wrong.setdefault(name, []).append(seed)
                print(f"{name}, seed {seed}: {words}", flush=True)

    def write(self, seed: int) -> None:
        """Write the counts."""
        payload = {
            "problems": self.problems,
            "samples per problem": 2,
            "samples": self.counts,
            "seeds of wrong answers": self.wrong,
            "seeds without a reference": self.left_out,
        }
        write(NAME, {**provenance(command(), seed), **payload})


def known_outcomes(seed: int) -> Outcomes:
    """The outcomes in the result file, if it begins with this seed."""
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("seed") != seed:
        return Outcomes(0, {}, {}, [])
    counts = {name: Counter(count) for name, count in known["samples"].items()}
    return Outcomes(known["problems"], counts, known["seeds of wrong answers"], known["seeds without a reference"])


def main(args: Args) -> None:
    """Solve all problems, print the wrong answers, and write the counts after every 20 problems."""
    result = known_outcomes(args.seed) if args.write else Outcomes(0, {}, {}, [])
    for seed in range(args.seed + result.problems, args.seed + args.problems):
        result.add(seed)
        if args.write and (result.problems % 20 == 0 or result.problems == args.problems):
            result.write(args.seed)
    for name, count in result.counts.items():
        print(name, dict(count.most_common()))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
