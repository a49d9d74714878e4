"""Tasks on irregular series, as tensors: PhysioNet 2012, a pendulum, and Japanese vowels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dampode.sequence import Scaling, Sequences, Triplets, time_since_observed

__all__ = ["Task", "japanese_vowels", "pendulum", "physionet"]


@dataclass(frozen=True)
class Task:
    """A data set with its split. A model reads the inputs and predicts the target of each series."""

    times: Tensor
    """(N, T), NaN at padding."""
    inputs: Tensor
    """(N, T, C)."""
    static: Tensor
    """What is known of a series as a whole, (N, F); F may be 0."""
    target: Tensor
    """(N,) of 0 and 1, (N,) int64 classes, or (N, D) numbers."""
    train: Tensor
    """Numbers of the training series."""
    test: Tensor
    """Numbers of the test series."""
    time_scales: tuple[float, float]
    """Time scales for the damped layers."""
    outputs: int
    """Numbers that a model predicts for each series."""


def physionet(path: Path, seed: int) -> Task:
    """In-hospital death of PhysioNet 2012, set a: 80 % of the stays train, 20 % test.

    Inputs are the 41 values, each held until the next one and clipped to 4 standard deviations; the mask; and the
    logarithm of 1 + the hours since each variable was last seen. Scales are those of the training part. The type of the
    unit is static.

    Source: Silva et al. 2012, Predicting in-hospital mortality of ICU patients; Goldberger et al. 2000.
    """
    data = np.load(path)
    stays, parameter, value = len(data["record_a"]), data["parameter_a"].astype(np.int64), data["value_a"]
    stay = np.repeat(np.arange(stays), np.diff(data["end_a"], prepend=0))
    hour, kind = data["minute_a"] / 60, list(data["names"]).index("ICUType")
    unit = np.zeros(stays, dtype=np.int64)
    unit[stay[parameter == kind]] = value[parameter == kind]
    known = value != -1  # −1 stands for an unknown height, weight, gender or unit
    triplets = Triplets(*(torch.as_tensor(column[known]) for column in (stay, hour, parameter, value)))
    order = torch.randperm(stays, generator=torch.Generator().manual_seed(seed))
    test, train = order[: stays // 5], order[stays // 5 :]
    variables = len(data["names"])
    scaling = Scaling.fit(triplets.of_records(train), variables)
    series = Sequences.of(triplets, variables, Scaling(scaling.mean, scaling.deviation, time_unit=1.0))
    before = torch.where(series.mask, torch.arange(series.mask.shape[1])[:, None], -1).cummax(1).values
    held = torch.where(before < 0, 0.0, series.values.gather(1, before.clamp(min=0))).clamp(-4, 4)
    age = torch.log1p(time_since_observed(series.times, series.mask)).float()
    inputs = torch.cat((held, series.mask.float(), age), 2)
    units = one_hot(torch.as_tensor(unit).clamp(min=0), 5)[:, 1:].float()
    died = torch.as_tensor(data["died_a"]).float()
    return Task(series.times, inputs, units, died, train, test, (0.5, 48.0), 1)


def pendulum(seed: int, samples: int = 1000, steps: int = 20) -> Task:
    """Forecast a damped pendulum: sine and cosine of its angle up to 3 after the last of 20 irregular noisy readings.

    θ'' = −sin θ − 0.1 θ'. The last step of a series has no reading: it says at which time the forecast is wanted.
    Inputs are the readings of sine and cosine, whether there is one, and the gap before each step.
    """
    draw = np.random.default_rng(seed)
    angle, speed = draw.uniform(-3, 3, samples), draw.uniform(-1, 1, samples)
    h, fine = 0.01, 1300
    path = np.empty((fine + 1, samples))
    for k in range(fine + 1):  # Störmer-Verlet
        path[k] = angle
        half = speed + h / 2 * (-np.sin(angle) - 0.1 * speed)
        angle = angle + h * half
        speed = half + h / 2 * (-np.sin(angle) - 0.1 * half)
    times = np.sort(draw.uniform(0, 10, (samples, steps)), 1)
    times = np.concatenate((times, times[:, -1:] + draw.uniform(0, 3, (samples, 1))), 1)
    at = np.take_along_axis(path.T, np.rint(times / h).astype(int).clip(max=fine), 1)
    truth = np.stack((np.sin(at), np.cos(at)), 2)
    seen = np.ones((*times.shape, 1))
    seen[:, -1] = 0
    read = (truth + draw.normal(0, 0.1, truth.shape)) * seen
    gaps = np.diff(times, axis=1, prepend=times[:, :1])[:, :, None]
    inputs = torch.as_tensor(np.concatenate((read, seen, gaps), 2)).float()
    target, split = torch.as_tensor(truth[:, -1]).float(), 4 * samples // 5
    train, test = torch.arange(split), torch.arange(split, samples)
    return Task(torch.as_tensor(times), inputs, torch.zeros(samples, 0), target, train, test, (0.1, 10.0), 2)


def japanese_vowels(seed: int, dropped: float) -> Task:
    """Japanese vowels, nine speakers, in its published split; a share of the steps of each series is dropped.

    The first step stays, so that no series is empty. Inputs are the values and the gap before each step; the values
    have the scales of the training part.

    Source: Kudo, Toyama, Shimbo 1999, in the package aeon.
    """
    from aeon.datasets import load_japanese_vowels

    draw = np.random.default_rng(seed)
    rows, labels, sizes = [], [], []
    for split in ("train", "test"):
        series, names = load_japanese_vowels(split=split)
        sizes.append(len(series))
        labels += [int(name) - 1 for name in names]
        for values in series:
            kept = draw.random(values.shape[1]) >= dropped
            kept[0] = True
            rows.append((np.flatnonzero(kept), values[:, kept].T))
    longest = max(len(index) for index, _ in rows)
    times = torch.full((len(rows), longest), torch.nan, dtype=torch.float64)
    inputs = torch.zeros(len(rows), longest, rows[0][1].shape[1])
    for n, (index, values) in enumerate(rows):
        times[n, : len(index)], inputs[n, : len(index)] = torch.as_tensor(index), torch.as_tensor(values)
    train, test = torch.arange(sizes[0]), torch.arange(sizes[0], sum(sizes))
    shown = inputs[train][~times[train].isnan()]
    gaps = times.diff(dim=1, prepend=times[:, :1]).nan_to_num(0.0)[:, :, None].float()
    inputs = torch.cat(((inputs - shown.mean(0)) / shown.std(0), gaps), 2)
    return Task(times, inputs, torch.zeros(len(rows), 0), torch.tensor(labels), train, test, (1.0, 30.0), 9)
