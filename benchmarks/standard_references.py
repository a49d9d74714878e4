"""The solutions of the standard problems to 11 digits and more, each by two methods.

python -m benchmarks.standard_references [--only A1]

The reference is a collocation at 7 Radau points, of order 13, in extended precision: it is computed in steps that agree
with 5 Radau points, of order 9, to 1e-13. The check is SciPy at a tolerance of 1e-13: DOP853 where the problem is not
stiff, Radau where it is. Radau stops on the Van der Pol equation with μ = 1e6, because float64 has too few digits for
the times of a transition; there the check is a collocation at 9 and 7 points to 1e-15. A problem whose reference is in
the file is not computed again.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import lu_factor, lu_solve

from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.standard_problems import PROBLEMS, StandardProblem

__all__ = ["NAME", "Stepper", "jacobian", "main", "reference"]

NAME = "standard_references"
Long = NDArray[np.longdouble]
Double = NDArray[np.float64]

CHECK = 1e-13
"""Relative tolerance of SciPy."""
MOVED = 1e-7
"""Change of the initial state, in units of errors, that shows how much a problem amplifies errors."""


class Collocation(NamedTuple):
    """Nodes c (s,) and weights A (s, s) of the collocation at Radau points; the last node is 1."""

    c: Long
    a: Long


@cache
def collocation(s: int) -> Collocation:
    """The method of order 2s − 1."""
    with mpmath.workdps(60):
        coefficients = [mpmath.mpf(0)] * (s - 1) + [mpmath.binomial(s, k) * (-1) ** (s - k) for k in range(s + 1)]
        for _ in range(s - 1):  # the roots of the (s − 1)th derivative of x^{s−1} (x − 1)^s
            coefficients = [k * value for k, value in enumerate(coefficients)][1:]
        roots = mpmath.polyroots(coefficients[::-1], maxsteps=500, extraprec=500)
        nodes = sorted((mpmath.re(root) for root in roots), key=float)
        powers = mpmath.matrix([[node**k for k in range(s)] for node in nodes])
        integrals = mpmath.matrix([[node ** (k + 1) / (k + 1) for k in range(s)] for node in nodes])
        a = integrals * powers**-1
        return Collocation(
            np.array([np.longdouble(mpmath.nstr(node, 25)) for node in nodes]),
            np.array([[np.longdouble(mpmath.nstr(a[i, j], 25)) for j in range(s)] for i in range(s)]),
        )


def jacobian(problem: StandardProblem, t: float, x: Double) -> Double:
    """∂F/∂x, (d, d)."""
    at = torch.tensor(t, dtype=torch.float64)
    rows = torch.func.jacfwd(lambda y: torch.stack(problem.rate(torch, at, y)))(torch.from_numpy(x.copy()))
    found: Double = rows.numpy()
    return found


@dataclass(frozen=True)
class Stepper:
    """The steps of a problem."""

    problem: StandardProblem
    fine: int = 7
    """Stages of a step."""
    coarse: int = 5
    """Stages of the solution that the step must agree with."""
    tolerance: float = 1e-13

    def rates(self, t: Long, states: Long) -> Any:
        """F at s times (s,) and states (s, d)."""
        return np.stack(self.problem.rate(np, t, states.T), 1)

    def scale(self, x: Long) -> Any:
        """What errors are relative to, (d,): far smaller in the absolute part than the benchmark's."""
        return 1e-4 * self.problem.scale + np.abs(x)

    def stages(self, method: Collocation, t: np.longdouble, x: Long, h: np.longdouble, j: Double) -> Long | None:
        """The states at the nodes, (s, d), by Newton's method with one Jacobian; None where it does not converge."""
        s, d = len(method.c), len(x)
        factors = lu_factor(np.eye(s * d) - float(h) * np.kron(method.a.astype(np.float64), j), check_finite=False)
        states: Long = np.repeat(x[None], s, 0)
        before = np.inf
        for _ in range(30):
            residual = x + h * (method.a @ self.rates(t + method.c * h, states)) - states
            if not np.isfinite(residual.astype(np.float64)).all():
                return None
            change = lu_solve(factors, residual.astype(np.float64).ravel(), check_finite=False).reshape(s, d)
            states = states + change
            size = float(np.max(np.abs(change) / self.scale(x)))
            if size < 1e-17 or (size < 1e-14 and size > before / 4):
                return states
            if size > 2 * before:
                return None
            before = size
        return None

    def advance(self, t: np.longdouble, x: Long, end: np.longdouble, h: np.longdouble) -> tuple[Long, np.longdouble]:
        """The state at ``end``, and the length of the next step."""
        while t < end:
            step = min(h, end - t)
            j = jacobian(self.problem, float(t), x.astype(np.float64))
            fine = self.stages(collocation(self.fine), t, x, step, j)
            coarse = None if fine is None else self.stages(collocation(self.coarse), t, x, step, j)
            if fine is None or coarse is None:
                h = step / 4
                continue
            error = float(np.max(np.abs(fine[-1] - coarse[-1]) / self.scale(np.maximum(np.abs(x), np.abs(fine[-1])))))
            ratio = self.tolerance / max(error, 1e-30)
            growth = np.longdouble(min(4.0, max(0.2, 0.8 * ratio ** (1 / (2 * self.coarse)))))
            if ratio >= 1:
                t, x = (end if step == end - t else t + step), fine[-1]
                h = max(h, step * growth) if step < h else step * growth
            else:
                h = step * growth
        return x, h


def reference(stepper: Stepper) -> Double:
    """The states at the times of a problem, (T, d)."""
    problem = stepper.problem
    t, x = np.longdouble(0), np.array(problem.x, dtype=np.longdouble)
    h, found = np.longdouble(1e-6) * min(1.0, problem.times[0]), []
    for end in problem.times:
        x, h = stepper.advance(t, x, np.longdouble(end), h)
        t = np.longdouble(end)
        found.append(x.astype(np.float64))
    return np.array(found)


def check(problem: StandardProblem) -> tuple[str, Double]:
    """The same by another method, and its name."""
    stiff = problem.kind == "stiff"
    method = "Radau" if stiff else "DOP853"
    settings: dict[str, Any] = {"jac": lambda t, x: jacobian(problem, t, x)} if stiff else {}
    solved = solve_ivp(
        lambda t, x: np.array(problem.rate(np, t, x)),
        (0.0, problem.times[-1]), np.array(problem.x), method, problem.times, rtol=CHECK, atol=CHECK * problem.scale,
        **settings,
    )  # fmt: skip
    if solved.success:
        return f"SciPy {method}", solved.y.T
    return "collocation at 9 points", reference(Stepper(problem, 9, 7, 1e-15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the name of one problem, which is computed anew")
    only = parser.parse_args().only
    path = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["problems"] if path.exists() else {}
    for problem in PROBLEMS:
        if problem.name != only and (only or problem.name in found):
            continue
        start = time.perf_counter()
        exact = reference(Stepper(problem))
        method, checked = check(problem)
        gap = float(np.max(np.abs(checked - exact) / (problem.scale + np.abs(exact))))
        print(f"{problem.name}: {method} differs by {gap}, {time.perf_counter() - start:.1f} s", flush=True)
        moved = tuple(value + MOVED * (problem.scale + abs(value)) for value in problem.x)
        change = reference(Stepper(replace(problem, x=moved))) - exact
        amplification = float(np.max(np.abs(change) / (problem.scale + np.abs(exact)))) / MOVED
        found[problem.name] = {
            "times": problem.times, "states": exact.tolist(), "check": method, "difference": gap,
            "amplification": max(1.0, amplification),
        }  # fmt: skip
        order = [known.name for known in PROBLEMS]
        write(NAME, {
            **provenance(command(), seed=0),
            "method": " ".join((__doc__ or "").split("\n\n")[2].split()),
            "problems": {name: found[name] for name in sorted(found, key=order.index)},
        })  # fmt: skip


if __name__ == "__main__":
    main()
