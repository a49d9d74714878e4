"""Standard problems of the literature: the non-stiff classes of DETEST, and a stiff test set.

A rate takes the module of mathematical functions first: numpy, torch or jax.numpy. So one definition serves every
library. Its state holds one component per row, and it gives the list of their derivatives.

Source: Hull, Enright, Fellen, Sedgwick 1972, and Enright, Pryce 1987 (DETEST); Hairer & Wanner, Solving ODEs II, IV.10,
and Mazzia & Magherini, Test Set for Initial Value Problem Solvers, 2008 (stiff).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DETEST", "PROBLEMS", "STIFF", "Rate", "StandardProblem"]

Rate = Callable[[Any, Any, Any], list[Any]]
"""(module of functions, t, state by components) -> the derivatives of the components."""


@dataclass(frozen=True)
class StandardProblem:
    """x' = F(t, x) from x at t = 0."""

    name: str
    kind: str
    """The class of the problem: a figure shows one class."""
    rate: Rate
    x: tuple[float, ...]
    times: tuple[float, ...]
    """Where errors are measured; the last one is the end."""
    scale: float = 1.0
    """The absolute tolerance over the relative one: errors are relative to this plus |x|, by components."""


def chain(below: list[float], diagonal: list[float], above: list[float]) -> Rate:
    """M x with a tridiagonal M: entry i of each list belongs to row i, and entries that are 0 are left out."""

    def rate(m: Any, t: Any, y: Any) -> list[Any]:
        rows = []
        for i, entry in enumerate(diagonal):
            row = entry * y[i]
            if below[i]:
                row = row + below[i] * y[i - 1]
            if above[i]:
                row = row + above[i] * y[i + 1]
            rows.append(row)
        return rows

    return rate


def diffusion(d: int) -> Rate:
    """C3 and C4."""
    return chain([0.0] + [1.0] * (d - 1), [-2.0] * d, [1.0] * (d - 1) + [0.0])


def torus(m: Any, t: Any, y: Any) -> list[Any]:
    """B4."""
    r = m.sqrt(y[0] * y[0] + y[1] * y[1])
    return [-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r]


GRAVITY = 2.95912208286
SUN = 1.00000597682
PLANETS = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
POSITIONS = (
    3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728, 11.2630437207,
    14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721, -21.1238353380, 28.4465098142,
    15.3882659679,
)  # fmt: skip
VELOCITIES = (
    -0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293, -0.325325669158,
    0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175, -0.176860753121,
    -0.216393453025, -0.0148647893090,
)  # fmt: skip


def outer_planets(m: Any, t: Any, y: Any) -> list[Any]:
    """C5: five planets and the sun."""
    bodies = range(len(PLANETS))
    at = [[y[3 * j + i] for i in range(3)] for j in bodies]

    def cubed(a: Any, b: Any, c: Any) -> Any:
        square = a * a + b * b + c * c
        return square * m.sqrt(square)

    from_sun = [cubed(*at[j]) for j in bodies]
    pull: list[Any] = []
    for j in bodies:
        others = [k for k in bodies if k != j]
        between = {k: cubed(*(at[k][i] - at[j][i] for i in range(3))) for k in others}
        for i in range(3):
            rate = -(SUN + PLANETS[j]) * at[j][i] / from_sun[j]
            for k in others:
                rate = rate + PLANETS[k] * ((at[k][i] - at[j][i]) / between[k] - at[k][i] / from_sun[k])
            pull.append(GRAVITY * rate)
    return [*(y[i] for i in range(15, 30)), *pull]


def orbit(m: Any, t: Any, y: Any) -> list[Any]:
    """D."""
    square = y[0] * y[0] + y[1] * y[1]
    cubed = square * m.sqrt(square)
    return [y[2], y[3], -y[0] / cubed, -y[1] / cubed]


def van_der_pol(mu: float) -> Rate:
    """E2 for μ = 1."""
    return lambda m, t, y: [y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]]


def robertson(m: Any, t: Any, y: Any) -> list[Any]:
    fast, slow = 3e7 * y[1] * y[1], 0.04 * y[0] - 1e4 * y[1] * y[2]
    return [-slow, slow - fast, fast]


def hires(m: Any, t: Any, y: Any) -> list[Any]:
    joined = 280 * y[5] * y[7]
    return [
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -joined + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        joined - 1.81 * y[6],
        -joined + 1.81 * y[6],
    ]


def oregonator(m: Any, t: Any, y: Any) -> list[Any]:
    first = 77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1]))
    return [first, (y[2] - (1 + y[0]) * y[1]) / 77.27, 0.161 * (y[0] - y[2])]


def e5(m: Any, t: Any, y: Any) -> list[Any]:
    a, b, c = 7.89e-10 * y[0], 1.1e7 * y[0] * y[2], 1.13e9 * y[1] * y[2]
    second, fourth = a - c, b - 1.13e3 * y[3]
    return [-a - b, second, second - fourth, fourth]  # keeps y2 = y3 + y4 to the last bit


REACTIONS: tuple[tuple[float, tuple[int, ...], tuple[int, ...]], ...] = (
    (0.35, (1,), (2, 3)), (26.6, (2, 4), (1,)), (1.23e4, (2, 5), (1, 6)), (8.6e-4, (7,), (5, 5, 8)),
    (8.2e-4, (7,), (8,)), (1.5e4, (6, 7), (5, 8)), (1.3e-4, (9,), (5, 8, 10)), (2.4e4, (6, 9), (11,)),
    (1.65e4, (2, 11), (1, 10, 12)), (9e3, (1, 11), (13,)), (2.2e-2, (13,), (1, 11)), (1.2e4, (2, 10), (1, 14)),
    (1.88, (14,), (5, 7)), (1.63e4, (1, 6), (15,)), (4.8e6, (3,), (4,)), (3.5e-4, (4,), (16,)), (1.75e-2, (4,), (3,)),
    (1e8, (16,), (6, 6)), (4.44e11, (16,), (3,)), (1.24e3, (6, 17), (5, 18)), (2.1, (19,), (2,)),
    (5.78, (19,), (1, 3)), (4.74e-2, (1, 4), (19,)), (1.78e3, (1, 19), (20,)), (3.12, (20,), (1, 19)),
)  # fmt: skip
"""Rate constant, reactants and products of the reactions of air pollution; species are counted from 1."""


def pollution(m: Any, t: Any, y: Any) -> list[Any]:
    rows: list[Any] = [0.0 * y[i] for i in range(20)]
    for constant, used, made in REACTIONS:
        speed = constant * y[used[0] - 1] * (y[used[1] - 1] if len(used) == 2 else 1.0)
        for species in used:
            rows[species - 1] = rows[species - 1] - speed
        for species in made:
            rows[species - 1] = rows[species - 1] + speed
    return rows


CELLS = 20


def brusselator(m: Any, t: Any, y: Any) -> list[Any]:
    """With diffusion on a line of 20 cells."""
    u, v = [y[i] for i in range(CELLS)], [y[i] for i in range(CELLS, 2 * CELLS)]
    speed = (CELLS + 1) ** 2 / 50
    first, second = [], []
    for i in range(CELLS):
        reaction = u[i] * u[i] * v[i]
        around_u = (u[i - 1] if i else 1.0) + (u[i + 1] if i < CELLS - 1 else 1.0)
        around_v = (v[i - 1] if i else 3.0) + (v[i + 1] if i < CELLS - 1 else 3.0)
        first.append(1 + reaction - 4 * u[i] + speed * (around_u - 2 * u[i]))
        second.append(3 * u[i] - reaction + speed * (around_v - 2 * v[i]))
    return first + second


def detest(name: str, rate: Rate, *x: float) -> StandardProblem:
    """A problem of DETEST: t from 0 to 20, absolute and relative tolerance equal."""
    return StandardProblem(name, name[0], rate, x, tuple(2.0 * n for n in range(1, 11)))


def stiff(name: str, rate: Rate, x: tuple[float, ...], end: float, scale: float) -> StandardProblem:
    """A stiff problem, measured at its end."""
    return StandardProblem(name, "stiff", rate, x, (end,), scale)


FIRST_OF_TEN, FIRST_OF_51 = (1.0, *[0.0] * 9), (1.0, *[0.0] * 50)
ECCENTRICITIES = (0.1, 0.3, 0.5, 0.7, 0.9)

DETEST = (
    detest("A1", lambda m, t, y: [-y[0]], 1.0),
    detest("A2", lambda m, t, y: [-y[0] * y[0] * y[0] / 2], 1.0),
    detest("A3", lambda m, t, y: [y[0] * m.cos(t)], 1.0),
    detest("A4", lambda m, t, y: [y[0] / 4 * (1 - y[0] / 20)], 1.0),
    detest("A5", lambda m, t, y: [(y[0] - t) / (y[0] + t)], 4.0),
    detest("B1", lambda m, t, y: [2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])], 1.0, 3.0),
    detest("B2", lambda m, t, y: [-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]], 2.0, 0.0, 1.0),
    detest("B3", lambda m, t, y: [-y[0], y[0] - y[1] * y[1], y[1] * y[1]], 1.0, 0.0, 0.0),
    detest("B4", torus, 3.0, 0.0, 0.0),
    detest("B5", lambda m, t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]], 0.0, 1.0, 1.0),
    detest("C1", chain([0.0] + [1.0] * 9, [-1.0] * 9 + [0.0], [0.0] * 10), *FIRST_OF_TEN),
    detest("C2", chain([float(i) for i in range(10)], [-1.0 * i for i in range(1, 10)] + [0.0], [0.0] * 10),
           *FIRST_OF_TEN),
    detest("C3", diffusion(10), *FIRST_OF_TEN),
    detest("C4", diffusion(51), *FIRST_OF_51),
    detest("C5", outer_planets, *POSITIONS, *VELOCITIES),
    *(detest(f"D{n}", orbit, 1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))) for n, e in enumerate(ECCENTRICITIES, 1)),
    detest("E1", lambda m, t, y: [y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])],
           0.6713967071418030, 0.09540051444747446),
    detest("E2", van_der_pol(1.0), 2.0, 0.0),
    detest("E3", lambda m, t, y: [y[1], y[0] * y[0] * y[0] / 6 - y[0] + 2 * m.sin(2.78535 * t)], 0.0, 0.0),
    detest("E4", lambda m, t, y: [y[1], 0.032 - 0.4 * y[1] * y[1]], 30.0, 0.0),
    detest("E5", lambda m, t, y: [y[1], m.sqrt(1 + y[1] * y[1]) / (25 - t)], 0.0, 0.0),
)  # fmt: skip

POLLUTED = tuple({2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}.get(i, 0.0) for i in range(1, 21))
HUMP = tuple(1 + math.sin(2 * math.pi * i / (CELLS + 1)) for i in range(1, CELLS + 1))

STIFF = (
    *(stiff(f"Van der Pol, μ = {mu:g}", van_der_pol(mu), (2.0, 0.0), 2 * mu, 1e-4 / mu) for mu in (1e1, 1e3, 1e6)),
    stiff("Robertson", robertson, (1.0, 0.0, 0.0), 1e11, 1e-8),
    stiff("HIRES", hires, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 321.8122, 1e-4),
    stiff("Oregonator", oregonator, (1.0, 2.0, 3.0), 360.0, 1e-2),
    stiff("E5 (chemistry)", e5, (1.76e-3, 0.0, 0.0, 0.0), 1e7, 1e-20),
    stiff("Pollution", pollution, POLLUTED, 60.0, 1e-4),
    stiff("Brusselator", brusselator, HUMP + (3.0,) * CELLS, 10.0, 1e-2),
)

PROBLEMS = (*DETEST, *STIFF)
