"""Inputs between observations: values, derivatives, missing values, and the words where a path does not fit."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline
from torch.autograd import gradcheck

from dampode import DampedODEFunc, odeint, paths
from dampode.damping import Constant
from dampode.fields import Driven
from dampode.integrators import ETD2RK, KenCarp4

KINDS = pytest.mark.parametrize("kind", [paths.Held, paths.Linear, paths.Hermite])
NAN = math.nan


def observations(n=3, count=7, channels=2, seed=0, missing=True):
    """Sorted times of each sample and values; the first and last time of every channel are observed."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(n, count, generator=generator, dtype=torch.float64).cumsum(1)
    values = torch.randn(n, count, channels, generator=generator, dtype=torch.float64)
    if missing:
        gone = torch.rand(n, count, channels, generator=generator) < 0.3
        gone[:, [0, -1]] = False
        values = values.masked_fill(gone, NAN)
    return times, values


def by_numpy(kind, times, values, t):
    """One channel of one sample."""
    known = ~np.isnan(values)
    times, values = times[known], values[known]
    if kind is paths.Held:
        return values[np.searchsorted(times, t, side="right") - 1]
    if kind is paths.Linear:
        return np.interp(t, times, values)
    slopes = np.diff(values) / np.diff(times)
    return CubicHermiteSpline(times, values, np.concatenate([slopes[:1], slopes]))(t)


@KINDS
def test_values_are_those_of_numpy_and_scipy(kind):
    times, values = observations()
    path = kind(times, values)
    for share in (0.0, 0.013, 0.37, 0.5, 0.99, 1.0):
        t = times[:, 0] + share * (times[:, -1] - times[:, 0])
        got = path(t)
        for n in range(3):
            for c in range(2):
                want = by_numpy(kind, times[n].numpy(), values[n, :, c].numpy(), t[n].item())
                assert got[n, c].item() == pytest.approx(float(want), abs=1e-12)


@KINDS
def test_a_time_may_be_a_number_a_tensor_or_one_per_sample(kind):
    times, values = observations()
    path, t = kind(times[0], values), 0.5 * (times[0, 0] + times[0, -1]).item()
    want = path(t)
    assert want.shape == (3, 2)
    for same in (torch.tensor(t, dtype=torch.float64), torch.full((3,), t).double(), torch.full((3, 1, 1), t).double()):
        torch.testing.assert_close(path(same), want)
    torch.testing.assert_close(kind(times[0], values[:1])(torch.full((5, 1), t).double()), want[:1].expand(5, -1))
    with pytest.raises(ValueError, match=r"it has 3 samples, t is \(4,\)"):
        path(torch.zeros(4))


@KINDS
def test_derivative_is_that_of_the_path(kind):
    path = kind(*observations())
    t = (path.times[:, 2] + 0.3 * (path.times[:, 3] - path.times[:, 2])).requires_grad_()
    want = torch.stack(
        [torch.autograd.grad(path(t)[:, c].sum(), t)[0] if kind is not paths.Held else 0 * t for c in (0, 1)], 1
    )
    torch.testing.assert_close(path.derivative(t), want)


def test_the_derivative_of_hermite_is_continuous_and_causal():
    times, values = observations(missing=False)
    path = paths.Hermite(times, values)
    for k in range(1, 6):
        torch.testing.assert_close(
            path.derivative(times[:, k] - 1e-9), path.derivative(times[:, k]), rtol=1e-4, atol=1e-5
        )
    later = values.clone()
    later[:, 4:] += 10.0
    t = times[:, 2] + 0.9 * (times[:, 3] - times[:, 2])
    assert torch.equal(paths.Hermite(times, later)(t), path(t))


@KINDS
def test_gradients_reach_values_and_time(kind):
    times, values = observations(missing=False)
    t = (times[:, 3] + 0.1).requires_grad_()
    assert gradcheck(lambda v, t: kind(times, v)(t), (values.requires_grad_(), t))


@KINDS
def test_missing_values_give_finite_gradients(kind):
    times, values = observations()
    kind(times, values.requires_grad_())(times[:, 3] + 0.01).sum().backward()
    assert torch.isfinite(values.grad).all()


@KINDS
def test_rows_are_padded(kind):
    times, values = observations(missing=False)
    padded = torch.cat((times, times.new_full((3, 2), NAN)), 1)
    extra = torch.cat((values, values.new_zeros(3, 2, 2)), 1)
    for t in (times[:, 0], times[:, 3] + 0.01, times[:, -1]):
        assert torch.equal(kind(padded, extra)(t), kind(times, values)(t))
        assert torch.equal(kind(padded, extra).derivative(t), kind(times, values).derivative(t))


@KINDS
def test_outside_of_its_span_a_path_is_nan(kind):
    times, values = observations(missing=False)
    path = kind(times, values)
    assert torch.isnan(path(times[:, 0] - 0.01)).all()
    assert torch.isnan(path.derivative(times[:, 0] - 0.01)).all()
    assert torch.isnan(path(times[:, -1] + 0.01)).all() == (kind is not paths.Held)


def test_an_observation_in_single_precision_is_seen_at_its_time():
    """0.1 in float32 is above, 0.3 below the number in float64."""
    times = torch.arange(1, 10, dtype=torch.float64) / 10
    path = paths.Held(times, torch.arange(9.0)[None, :, None])
    for k, t in enumerate(times.float()):
        assert path(t).item() == k
        assert path(torch.nextafter(t, torch.tensor(0.0))).item() == k - 1 or k == 0


def test_a_path_moves_with_its_module_and_is_no_weight():
    times, values = observations()
    func = DampedODEFunc(Driven(lambda t, x, u: u, paths.Linear(times, values))).float()
    assert func.f.path(1.0).dtype == torch.float32
    assert not [key for key in func.state_dict() if "path" in key]


@pytest.mark.parametrize("shared", [False, True])
def test_breaks_of_all_paths_are_merged(shared):
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[0.5, 1.0, NAN], [0.0, 0.25, 3.0]])
    field = Driven(lambda t, x, u: u, paths.Held(a, torch.zeros(2, 3, 1)))
    func = DampedODEFunc(field, Constant(1.0))
    assert func.breaks().tolist() == [0.0, 1.0, 2.0]
    if not shared:
        field.f = Driven(lambda t, x, u: u, paths.Linear(b, torch.zeros(2, 3, 1)))
        torch.testing.assert_close(
            func.breaks(),
            torch.tensor([[0.0, 0.5, 1.0, 2.0, NAN, NAN], [0.0, 0.25, 1.0, 2.0, 3.0, NAN]]).double(),
            equal_nan=True,
        )
    assert DampedODEFunc(torch.sin).breaks() is None


@pytest.mark.parametrize("integrator", [ETD2RK(200), KenCarp4(rtol=1e-7, atol=1e-9)])
def test_a_driven_field_gets_the_input_of_each_sample(integrator):
    """x' = −x + u with u linear: x = u − u' (1 − e^{−t}) where x(0) = u(0)."""
    times = torch.tensor([0.0, 2.0], dtype=torch.float64)
    values = torch.tensor([[[1.0], [2.0]], [[0.0], [-1.0]]], dtype=torch.float64)
    func = DampedODEFunc(Driven(lambda t, x, u: u, paths.Linear(times, values)), Constant(1.0))
    t = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    xs = odeint(func, values[:, 0], t, integrator)
    slope = (values[:, 1] - values[:, 0]) / 2
    want = values[:, 0] + slope * (t[:, None, None] - 1 + torch.exp(-t)[:, None, None])
    torch.testing.assert_close(xs, want, rtol=1e-5, atol=1e-6)


def test_a_path_that_does_not_span_the_solve_is_refused():
    times, values = torch.tensor([0.0, 1.0]), torch.zeros(2, 2, 1)
    func = DampedODEFunc(Driven(lambda t, x, u: u, paths.Linear(times, values)))
    x = torch.zeros(2, 1)
    words = r"sample 0 is solved on \[0, 1\.5\], its Linear path is known on \[0, 1\]; give it a value at both ends"
    with pytest.raises(ValueError, match=words):
        odeint(func, x, torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match=words):
        odeint(func, x, torch.tensor([1.5, 0.0]))
    with pytest.raises(ValueError, match=words):
        ETD2RK()(func, x, 0.0, 1.5)
    with pytest.raises(ValueError, match=r"sample 1 is solved on \[0, 2\]"):
        odeint(func, x, torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    with pytest.raises(ValueError, match="a path of 2 samples and a state of 3"):
        odeint(func, torch.zeros(3, 1), times)
    held = DampedODEFunc(Driven(lambda t, x, u: u, paths.Held(times, values)))
    assert odeint(held, x, torch.tensor([0.0, 9.0])).shape == (2, 2, 1)
    with pytest.raises(ValueError, match=r"its Held path is known on \[0, inf\]"):
        odeint(held, x, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("times", "values", "words"),
    [
        ([0.0, 0.0], [[[1.0], [2.0]]], "must increase strictly, got 0 and then 0 in row 0"),
        ([[0.0, NAN, 1.0]], [[[1.0], [2.0], [2.0]]], r"NaN may only pad the end of a row, got row 0"),
        ([0.0, math.inf], [[[1.0], [2.0]]], "must be finite, and NaN"),
        ([0.0, 1.0], [[[1.0], [math.inf]]], "values of a path must be finite, or NaN"),
        ([0.0, 1.0], [[[1.0, NAN], [1.0, NAN]]], "got none of channel 1 in sample 0"),
        ([0.0, 1.0], [[1.0, 2.0]], r"got times \(2,\) and values \(1, 2\); a single channel is values"),
        ([0.0, 1.0], [[[1.0]]], r"got times \(2,\) and values \(1, 1, 1\)"),
        ([[0.0], [1.0]], [[[1.0]], [[1.0]], [[1.0]]], r"got times \(2, 1\) and values \(3, 1, 1\)"),
    ],
)
@KINDS
def test_bad_observations_are_refused(kind, times, values, words):
    with pytest.raises(ValueError, match=words):
        kind(torch.tensor(times), torch.tensor(values))


def test_what_has_no_path_is_refused():
    with pytest.raises(TypeError, match="times must be floating"):
        paths.Held(torch.arange(2), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="one begins at 2, after another has ended at 1"):
        paths.Linear(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[[1.0, NAN], [1.0, NAN], [NAN, 1.0]]]))
    with pytest.raises(TypeError, match="path must be of type Path, got float"):
        Driven(lambda t, x, u: u, 1.0)
    with pytest.raises(TypeError, match=r"f must be a callable of \(t, x, u\)"):
        Driven(1.0, paths.Held(torch.zeros(1), torch.zeros(1, 1, 1)))
