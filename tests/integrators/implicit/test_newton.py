"""Jacobians by finite differences, when they are taken, and what a failed step leaves behind."""

import pytest
import torch

from dampode.integrators.implicit.newton import Jacobians, finite_differences
from dampode.integrators.implicit.quasi_newton import SecantPairs
from dampode.integrators.tolerance import Tolerance
from tests.helpers.stiff_problems import PROBLEMS


def test_a_jacobian_by_finite_differences():
    """Scales from 1e-8 to 1e8, a zero, and a number behind which f is not defined."""
    x = torch.tensor([[1e-8, 1.0, 1e8, 0.0], [2e-8, -1.0, 3e8, 0.0]], dtype=torch.float64)

    def f(x):
        a, b, c, d = x.unbind(1)
        return torch.stack((torch.sqrt(a) + d, b * b * a, torch.sin(1e-8 * c) * b, d - c + torch.sqrt(d)), 1)

    found = finite_differences(f, x, Tolerance(1e-9, 1e-11))
    want = torch.stack([torch.func.jacrev(lambda v: f(v[None])[0])(one) for one in x])
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, :, 1:3], want[:, :, 1:3], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[:, 1, 0], want[:, 1, 0], rtol=1e-5, atol=1e-7)


def test_a_jacobian_keeps_a_conserved_sum():
    """E5 keeps y2 − y3 − y4. With λ split off from f, the rounding of λ y3 hides the changes of y3'."""
    (e5,) = (problem for problem in PROBLEMS if problem.name == "E5")
    func = e5.func("diagonal")
    x = torch.tensor([[4.7e-10, 1.81888e-14, 1.81888e-14, 8.3e-20]], dtype=torch.float64)
    found = finite_differences(lambda x: func.f(0.0, x), x, Tolerance(1e-4, 1e-24))
    found.diagonal(0, 1, 2).sub_(func.damping(0.0, x))
    lost = found[0, 1] - found[0, 2] - found[0, 3]
    assert (lost.abs() <= 1e-3 * found[0, 1:].abs().amax(0)).all()


@pytest.mark.parametrize("spent", [8, 20])
def test_when_a_jacobian_is_taken_anew(spent):
    """Slow convergence costs calls: a new Jacobian is due once they are as many as its own."""
    x, one = torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    jacobians, yes = Jacobians(x), one > 0
    assert jacobians.wanted(yes).all()  # a small state has one from the start
    jacobians.update(torch.zeros(2, 4, 4, dtype=torch.float64), yes)
    assert not jacobians.wanted(yes).any()
    jacobians.record(spent * one, yes, yes)
    assert jacobians.wanted(yes).all() == (spent > 8)
    jacobians.update(torch.zeros(2, 4, 4, dtype=torch.float64), yes)
    assert not jacobians.record(7 * one, ~yes, yes).any()  # it is of this state: no use in taking it again
    jacobians.move(yes)
    assert jacobians.record(7 * one, ~yes, yes).all()
    assert not Jacobians(torch.ones(1, 2000)).wanted(yes[:1]).any()


def test_what_failed_leaves_no_secants():
    secants, one = SecantPairs.empty(torch.zeros(2, 4, dtype=torch.float64)), torch.ones(2, 1, dtype=torch.float64)
    fresh = [value.clone() for value in secants]
    moves, r = torch.eye(4, dtype=torch.float64)[:2], torch.randn(2, 4, dtype=torch.float64)
    secants.correction(moves, 0.5 * moves, one > 0, r, 0.1 * one)
    secants.forget(torch.tensor([[True], [False]]))
    for now, before in zip(secants, fresh, strict=True):
        torch.testing.assert_close(now[0], before[0], rtol=0, atol=0)
    assert secants.kept.tolist() == [0, 1]
