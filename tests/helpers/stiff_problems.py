"""Stiff problems of the literature: a right-hand side on batches (N, d), an initial state and the state it ends in.

The states at the end are those of SciPy's Radau at rtol 1e-11 with the exact Jacobian; the ring modulator's, a tenth
of the way, is that of LSODA at 1e-10. Van der Pol's were found in sections that each begin at t = 0: at μ = 1e6
float64 has too few digits for the times of a transition. E5 ends at 1e7: later its state depends on differences that
rounding takes.

Source: Mazzia & Magherini, Test Set for Initial Value Problem Solvers, 2008; Hairer & Wanner, Solving ODEs II, IV.10.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.standard_problems import REACTIONS
from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.fields import VectorField

Rate = Callable[[Tensor | float, Tensor], Tensor]


@dataclass(frozen=True)
class StiffProblem:
    """x' = F(t, x) from x at 0 to ``end``; ``atol`` is the absolute tolerance over the relative one."""

    name: str
    rate: Rate
    x: tuple[float, ...]
    end: float
    atol: float = 1e-2

    @property
    def start(self) -> Tensor:
        return torch.tensor([self.x], dtype=torch.float64)

    def func(self, damping: str) -> DampedODEFunc:
        """The problem with λ = 0, or with the parts of the Jacobian's diagonal at the start that damp as λ."""
        lam = torch.zeros(len(self.x), dtype=torch.float64)
        if damping == "diagonal":
            jacobian = torch.func.jacrev(lambda x: self.rate(0.0, x[None])[0])(self.start[0])
            lam = (-jacobian.diagonal()).clamp(min=0.0)
        return DampedODEFunc(Undamped(self.rate, lam), Constant(lam))


class Undamped(VectorField):
    """F + λ x."""

    def __init__(self, rate: Rate, lam: Tensor) -> None:
        super().__init__()
        self.rate, self.lam = rate, lam

    def forward(self, t, x):
        return self.rate(t, x) + self.lam.to(x) * x


def columns(x: Tensor) -> tuple[Tensor, ...]:
    return x.unbind(1)


def robertson(t, x):
    a, b, c = columns(x)
    fast, slow = 3e7 * b * b, 0.04 * a - 1e4 * b * c
    return torch.stack((-slow, slow - fast, fast), 1)


def hires(t, x):
    y1, y2, y3, y4, y5, y6, y7, y8 = columns(x)
    return torch.stack(
        (
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -280 * y6 * y8 + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            280 * y6 * y8 - 1.81 * y7,
            -280 * y6 * y8 + 1.81 * y7,
        ),
        1,
    )


def oregonator(t, x):
    y1, y2, y3 = columns(x)
    return torch.stack(
        (77.27 * (y2 + y1 * (1 - 8.375e-6 * y1 - y2)), (y3 - (1 + y1) * y2) / 77.27, 0.161 * (y1 - y3)), 1
    )


CONSTANTS = torch.tensor([constant for constant, _, _ in REACTIONS], dtype=torch.float64)
FIRST = [used[0] - 1 for _, used, _ in REACTIONS]
SECOND = [used[1] - 1 if len(used) == 2 else 20 for _, used, _ in REACTIONS]
"""The second reactant, or the number 1 behind the species."""
CHANGES = torch.zeros(len(REACTIONS), 20, dtype=torch.float64)
for row, (_, reactants, products) in zip(CHANGES, REACTIONS, strict=True):
    for species in reactants:
        row[species - 1] -= 1
    for species in products:
        row[species - 1] += 1


def pollution(t, x):
    with_one = torch.cat((x, torch.ones_like(x[:, :1])), 1)
    return CONSTANTS.to(x) * with_one[:, FIRST] * with_one[:, SECOND] @ CHANGES.to(x)


def vdp(mu):
    def rate(t, x):
        y, v = columns(x)
        return torch.stack((v, mu * (1 - y * y) * v - y), 1)

    return rate


def e5(t, x):
    y1, y2, y3, y4 = columns(x)
    a, b, c = 7.89e-10 * y1, 1.1e7 * y1 * y3, 1.13e9 * y2 * y3
    second, fourth = a - c, b - 1.13e3 * y4
    return torch.stack((-a - b, second, second - fourth, fourth), 1)  # keeps y2 = y3 + y4 to the last bit


def brusselator(t, x):
    u, v = x.chunk(2, 1)
    n = u.shape[1]

    def laplacian(w, edge):
        left, right = torch.roll(w, 1, 1), torch.roll(w, -1, 1)
        left[:, 0], right[:, -1] = edge, edge
        return (left - 2 * w + right) * ((n + 1) ** 2 / 50)

    reaction = u * u * v
    return torch.cat((1 + reaction - 4 * u + laplacian(u, 1.0), 3 * u - reaction + laplacian(v, 3.0)), 1)


def ring_modulator(t, x):
    y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15 = columns(x)
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1)
    slow, fast = 0.5 * torch.sin(2e3 * torch.pi * t), 2 * torch.sin(2e4 * torch.pi * t)
    voltages = (y3 - y5 - y7 - fast, y6 - y4 - y7 - fast, y4 + y5 + y7 + fast, y7 - y3 - y6 + fast)
    q1, q2, q3, q4 = (40.67286402e-9 * torch.expm1(17.7493332 * v) for v in voltages)
    return torch.stack(
        (
            (y8 - 0.5 * y10 + 0.5 * y11 + y14 - y1 / 25e3) / 1.6e-8,
            (y9 - 0.5 * y12 + 0.5 * y13 + y15 - y2 / 25e3) / 1.6e-8,
            (y10 - q1 + q4) / 2e-12,
            (-y11 + q2 - q3) / 2e-12,
            (y12 + q1 - q3) / 2e-12,
            (-y13 - q2 + q4) / 2e-12,
            (-y7 / 50 + q1 + q2 - q3 - q4) / 1e-8,
            -y1 / 4.45,
            -y2 / 4.45,
            (0.5 * y1 - y3 - 17.3 * y10) / 5e-4,
            (-0.5 * y1 + y4 - 17.3 * y11) / 5e-4,
            (0.5 * y2 - y5 - 17.3 * y12) / 5e-4,
            (-0.5 * y2 + y6 - 17.3 * y13) / 5e-4,
            (-y1 + slow - 86.3 * y14) / 2e-3,
            (-y2 - 636.3 * y15) / 2e-3,
        ),
        1,
    )


POLLUTED = tuple({2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}.get(i, 0.0) for i in range(1, 21))
CELLS = 20
HUMP = tuple(1 + float(torch.sin(torch.tensor(2 * torch.pi * i / (CELLS + 1)).double())) for i in range(1, CELLS + 1))

PROBLEMS = (
    StiffProblem("Robertson to 1e2", robertson, (1.0, 0.0, 0.0), 1e2, 1e-4),
    StiffProblem("Robertson to 1e11", robertson, (1.0, 0.0, 0.0), 1e11, 1e-8),
    StiffProblem("HIRES", hires, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 321.8122, 1e-4),
    StiffProblem("Oregonator", oregonator, (1.0, 2.0, 3.0), 360.0),
    StiffProblem("pollution", pollution, POLLUTED, 60.0, 1e-4),
    *(StiffProblem(f"Van der Pol, μ = {mu:g}", vdp(mu), (2.0, 0.0), 2 * mu, 1e-4 / mu) for mu in (1e3, 1e4, 1e5, 1e6)),
    StiffProblem("E5", e5, (1.76e-3, 0.0, 0.0, 0.0), 1e7, 1e-20),
    StiffProblem("Brusselator", brusselator, HUMP + (3.0,) * CELLS, 10.0),
)
RING = StiffProblem("ring modulator", ring_modulator, (0.0,) * 15, 1e-4, 1e-4)

ENDS: dict[str, tuple[float, ...]] = {
    "Robertson to 1e2": (
        0.617234882398, 6.15359127469e-06, 0.38275896401,
    ),
    "Robertson to 1e11": (
        2.08334014969e-08, 8.33336077029e-14, 0.999999979167,
    ),
    "HIRES": (
        0.000737131257333, 0.000144248572632, 5.88872974097e-05, 0.00117565134328,
        0.00238635619883, 0.00623896825274, 0.00284999839519, 0.00285000160481,
    ),
    "Oregonator": (
        1.00081487032, 1228.17852155, 132.055494285,
    ),
    "pollution": (
        0.0564625548002, 0.134248413042, 4.1397343311e-09, 0.00552314020748,
        2.0189772623e-07, 1.4645418635e-07, 0.07784249119, 0.32450753534,
        0.00749401338388, 1.6222931573e-08, 1.13586383326e-08, 0.00223050597572,
        0.00020871628828, 1.39692101684e-05, 0.0089648848569, 4.35284636933e-18,
        0.00689921969626, 0.000100780303737, 1.77214651397e-06, 5.68294329231e-05,
    ),
    "Van der Pol, μ = 1000": (
        1.70616773217, -0.000892809701025,
    ),
    "Van der Pol, μ = 10000": (
        1.70557518118, -8.93445288431e-05,
    ),
    "Van der Pol, μ = 100000": (
        1.70554750432, -8.9347498212e-06,
    ),
    "Van der Pol, μ = 1e+06": (
        1.70554621754, -8.93476362547e-07,
    ),
    "Brusselator": (
        0.877653009771, 0.765892827445, 0.671247847149, 0.595855001786,
        0.538646967726, 0.496938601866, 0.467672087652, 0.448132034792,
        0.436247125969, 0.430660675715, 0.430711250009, 0.436405327137,
        0.448416918359, 0.468113178974, 0.497569204174, 0.539488645759,
        0.596889724792, 0.672380530324, 0.766922684194, 0.878294321653,
        3.15470390961, 3.2955488212, 3.41364326714, 3.50583009226,
        3.57345116898, 3.62040579437, 3.65144687082, 3.67104542658,
        3.68277085049, 3.68901304647, 3.69088755495, 3.68821938664,
        3.67955666634, 3.66221478925, 3.63240103444, 3.58552355143,
        3.51683997773, 3.42260911376, 3.30177844035, 3.15785311779,
    ),
    "E5": (
        4.71503336303e-10, 1.81888958608e-14, 1.81888123768e-14, 8.34840202963e-20,
    ),
}  # fmt: skip
"""The states at the end."""

BDF_CALLS: dict[str, tuple[int, int | None]] = {
    "Robertson to 1e2": (222, 452),
    "Robertson to 1e11": (1278, 2500),
    "HIRES": (635, 1137),
    "Oregonator": (2520, 4834),
    "pollution": (331, 534),
    "Van der Pol, μ = 1000": (2108, 3975),
    "Van der Pol, μ = 10000": (2494, 5240),
    "Van der Pol, μ = 100000": (3075, None),
    "Brusselator": (513, 650),
    "E5": (751, 1568),
}
"""Calls that SciPy's BDF makes at rtol 1e-4 and 1e-6, d for a Jacobian; not there where its step underflows."""

CALLS: dict[str, tuple[int, int]] = {
    "Robertson to 1e2": (266, 565),
    "Robertson to 1e11": (1560, 3055),
    "HIRES": (792, 1991),
    "Oregonator": (3137, 7458),
    "pollution": (342, 616),
    "Van der Pol, μ = 1000": (2504, 7188),
    "Van der Pol, μ = 10000": (3088, 9283),
    "Van der Pol, μ = 100000": (3655, 11420),
    "Van der Pol, μ = 1e+06": (4346, 13784),
    "Brusselator": (702, 804),
    "E5": (1114, 3488),
}
"""Calls that KenCarp4 makes at rtol 1e-4 and 1e-6: the larger number of both dampings."""

RING_END = (
    2.68585539e-01, 1.97407577e-01, 3.95522583e-01, -2.63013888e-01, -2.91609399e-01, 3.66927072e-01, 1.11010990e-01,
    -2.78448971e-06, -9.69692181e-07, 1.12358683e-03, 4.06043720e-04, -1.12203116e-03, -4.07599381e-04, 3.93671866e-04,
    -3.06875679e-04,
)  # fmt: skip
