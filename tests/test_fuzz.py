"""A short campaign of random calls finds no new fault, and the oracle finds planted ones."""

import time
import weakref

import pytest
import torch

from benchmarks.fuzz.campaign import QUICK_CALLS, QUICK_LIMIT, call_of, fuzz, fuzz_in_processes
from benchmarks.fuzz.dependence import OneByOne, differs_from
from benchmarks.fuzz.oracle import Call, Fault, judged
from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import Autonomous
from dampode.integrators import ETD2RK, AdaptiveExponential, TorchDiffEq


def solve(f, x=None):
    x = torch.zeros(2, 3) if x is None else x
    return odeint(DampedODEFunc(f, Constant(1.0)), x, torch.tensor([0.0, 1.0]), ETD2RK(2))


def verdict(run, own=None, limit=5.0):
    return judged(Call("a call", run, lambda: own), limit)


def test_random_calls_have_no_new_fault():
    found = fuzz(range(QUICK_CALLS), QUICK_LIMIT)
    faults = {seed: verdict for seed, (_, _, verdict) in found.items() if verdict.outcome == "fault"}
    assert faults == {}
    outcomes = [verdict.outcome for _, _, verdict in found.values()]
    assert outcomes.count("answered as the reference") > QUICK_CALLS / 10
    assert outcomes.count("slow") < QUICK_CALLS / 4


MENDED = (2589, 3226, 4389, 4805, 4978, 5431, 5830, 6646, 7688, 7832, 9061, 10286, 10867, 11726, 11950)
"""Calls with a fault in an earlier campaign, of the library or of the harness."""


@pytest.mark.parametrize("seed", MENDED)
def test_a_mended_call_has_no_fault(seed):
    assert judged(call_of(seed)[1], 5.0).outcome in ("answered", "answered as the reference", "refused")


def test_processes_find_what_one_process_finds():
    seeds = range(10, 12)
    assert fuzz_in_processes(seeds, 5.0, 2) == fuzz(seeds, 5.0)


def test_a_worded_error_is_no_fault():
    assert verdict(lambda: solve(torch.sum)).outcome == "refused"
    assert verdict(lambda: solve(torch.tanh, torch.full((2, 3), torch.nan))).outcome == "refused"


def raise_in_field(x):
    raise KeyError("a key")


@pytest.mark.parametrize(("own", "outcome"), [(None, "fault"), (ValueError(), "fault"), (KeyError(), "refused")])
def test_an_error_of_the_field_is_no_fault_if_the_field_alone_raises_it(own, outcome):
    assert verdict(lambda: solve(raise_in_field), own).outcome == outcome


def test_an_error_of_torch_in_a_line_of_the_library_is_a_fault():
    func = DampedODEFunc(torch.tanh, Constant(1.0))
    found = verdict(lambda: str(ETD2RK(2).step(func, torch.zeros(2, 3), 0.0, "h")))
    assert found.outcome == "fault"
    assert "integrators/" in found.group


def test_a_wrong_answer_is_a_fault():
    def run():
        raise Fault("wrong", "by 1000 tolerances")

    assert verdict(run) == ("fault", "wrong", "by 1000 tolerances")


def test_a_call_that_takes_too_long_is_slow():
    def run():
        while True:
            pass

    assert verdict(run, limit=0.05).outcome == "slow"


def test_a_call_is_not_stopped_while_it_cleans_up():
    class Context:
        closed = False

        def __enter__(self):
            return self

        def __exit__(self, *error):
            start = time.process_time()
            while time.process_time() < start + 0.2:
                pass
            Context.closed = True

    def run():
        with Context():
            pass
        while True:
            pass

    assert verdict(run, limit=0.05).outcome == "slow"
    assert Context.closed


def test_a_call_is_stopped_after_the_callback_of_a_weak_reference():
    class Target:
        pass

    called = []

    def callback(reference):
        called.append(reference)
        while True:  # only the limit of the call ends this loop
            pass

    def run():
        target = Target()
        reference = weakref.ref(target, callback)
        del target
        while True:
            assert reference() is None

    assert verdict(run, limit=0.05).outcome == "slow"
    assert len(called) == 1


def test_a_stopped_call_leaves_no_mode_of_torch_behind():

    def run():
        torch.no_grad().__enter__()
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.set_default_dtype(torch.float64)
        while True:
            pass

    weight = torch.ones(4, 4, requires_grad=True)
    assert verdict(run, limit=0.05).outcome == "slow"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    for _ in range(2):  # an open context would keep the half-precision copy of the first turn
        with torch.autocast("cpu", torch.bfloat16):
            product = weight @ weight
        assert product[0, 0] == 4 * weight[0, 0] ** 2
        weight.data.mul_(2)
    assert (weight @ weight).dtype == torch.float32


T = torch.tensor([0.0, 1.0], dtype=torch.float64)
DIFFERENT = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("x", "t", "differs"),
    [(DIFFERENT, T, True), (DIFFERENT, 1e-12 * T, False), (0 * DIFFERENT, T, False), (0 * DIFFERENT + 2, T, False)],
    ids=["different", "a tiny span", "zero", "equal"],
)
def test_coupling_is_a_fault_only_where_it_changes_the_answer(x, t, differs):
    together = DampedODEFunc(lambda x: x.mean(0, keepdim=True).expand_as(x), Constant(0.0))
    alone = DampedODEFunc(OneByOne(together.f), Constant(0.0))
    integrator = TorchDiffEq("dopri5", 1e-6, 1e-8)
    answer = odeint(together, x, t, integrator)
    assert differs_from(alone, x, t, integrator, answer, torch.tensor([True] * 3), 100.0) == differs


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_random_values_are_a_fault_only_where_they_change_the_answer(strength):
    drawn = torch.zeros(3, 1, dtype=torch.float64)

    def draw(x):
        return strength * drawn - x

    func, integrator = DampedODEFunc(Autonomous(draw), Constant(0.0)), AdaptiveExponential()
    answer = odeint(func, DIFFERENT, T, integrator)
    drawn += torch.randn_like(drawn)
    assert differs_from(func, DIFFERENT, T, integrator, answer, torch.tensor([True] * 3), 100.0) == bool(strength)
