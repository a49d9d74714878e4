"""recompute=: the same states and gradients from less memory, and what is refused."""

import pytest
import torch
from torch import nn
from torch.autograd import grad
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from dampode import DampedBlock, DampedODEFunc, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialEuler,
    IntegrationError,
    KenCarp4,
    Krogstad4,
)
from dampode.integrators.recompute import segments
from dampode.integrators.to_tolerance import TolerantIntegrator
from tests.helpers.oracles import Forced

SAVED = [Krogstad4(40, recompute=6), AdaptiveExponential(1e-6, 1e-8, recompute=5)]
PLAIN = [Krogstad4(40), AdaptiveExponential(1e-6, 1e-8)]
pairs = pytest.mark.parametrize(("plain", "saved"), list(zip(PLAIN, SAVED, strict=True)), ids=["fixed", "adaptive"])


def gradients(func, x, t, integrator):
    x = x.clone().requires_grad_()
    xs = odeint(func, x, t, integrator)
    weights = torch.linspace(1, 2, xs.numel(), dtype=xs.dtype).view_as(xs)
    return xs.detach(), grad((weights * xs.square()).sum(), (x, *func.parameters()))


def saved_bytes(run):
    """Bytes that backward keeps: every storage once."""
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(seen.values())


@pairs
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.1, 0.15, 1.0, 1.1], [1.0, 0.6, 0.2]])
def test_recompute_changes_neither_states_nor_gradients(plain, saved, gated, times):
    damping = Gated(3).double() if gated else Learned(0.5, 5.0, shape=(3,)).double()
    func = DampedODEFunc(Forced(3), damping)
    x, t = torch.randn(3, 3, dtype=torch.float64) * torch.tensor([[0.1], [1.0], [3.0]]), torch.tensor(times).double()
    (want_x, want), (got_x, got) = (gradients(func, x, t, integrator) for integrator in (plain, saved))
    torch.testing.assert_close(got_x, want_x, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_recompute_in_float32_with_rejected_steps(monkeypatch):
    monkeypatch.setattr(TolerantIntegrator, "_first_step", lambda _, loop: torch.full_like(loop.tau, 0.5))
    func = DampedODEFunc(lambda x: 5 * torch.sin(x * x), Learned(1.0, 2.0))
    x, t = torch.tensor([[8.0], [0.1]]), torch.tensor([0.0, 0.3, 1.0])
    with torch.no_grad():
        assert solve(func, x, t, AdaptiveExponential()).rejected.min() > 0
    (want_x, want), (got_x, got) = (gradients(func, x, t, AdaptiveExponential(recompute=count)) for count in (None, 4))
    torch.testing.assert_close(got_x, want_x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pairs
def test_recompute_gives_second_derivatives(plain, saved):
    func = DampedODEFunc(Forced(3), Learned(0.5, 2.0, shape=(3,)).double())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t, inputs = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), (x, *func.parameters())
    found = []
    for integrator in (plain, saved):
        first = grad(odeint(func, x, t, integrator).square().sum(), inputs, create_graph=True)
        found.append(grad(sum(g.square().sum() for g in first), inputs))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


def test_a_hundred_steps_in_ten_segments_keep_a_seventh_of_the_memory():
    func = DampedODEFunc(Forced(8), Learned(0.5, 2.0).double())
    x = torch.randn(16, 8, dtype=torch.float64, requires_grad=True)
    used = [saved_bytes(lambda i=i: i(func, x, 0.0, 1.0)) for i in (Krogstad4(100), Krogstad4(100, recompute=10))]
    # the hooks see what the segments begin with; a segment's own steps come and go in the backward pass
    used[1] += saved_bytes(lambda: Krogstad4(10)(func, x, 0.0, 0.1))
    assert used[1] < used[0] / 7


def test_a_block_with_recompute_trains_and_compiles():
    f = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Tanh())
    block = DampedBlock(f, Learned(), integrator=ExponentialEuler(6, recompute=3))
    plain = DampedBlock(f, block.func.damping, integrator=ExponentialEuler(6))
    x, found = torch.randn(4, 3), []
    for module in (plain, block):
        torch.manual_seed(5)  # the segments draw the dropout that the forward pass drew
        found.append(grad(module(x).square().sum(), tuple(module.parameters())))
    torch.testing.assert_close(*found)
    block.eval()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    want, got = (grad(run(x).sum(), tuple(block.parameters())) for run in (block, compiled))
    torch.testing.assert_close(got, want)


def test_a_failed_sample_fails_with_recompute_too():
    func = DampedODEFunc(lambda x: torch.where(x > 2, torch.nan, 1.0).to(x), Learned(0.1, 0.2).double())
    x, t = torch.tensor([[-1.0], [1.5]], dtype=torch.float64), torch.linspace(0, 1, 5, dtype=torch.float64)
    plain, saved = (solve(func, x, t, AdaptiveExponential(recompute=c)) for c in (None, 3))
    assert saved.status == plain.status
    torch.testing.assert_close(saved.x, plain.x, equal_nan=True, rtol=1e-13, atol=1e-13)
    with pytest.raises(IntegrationError, match="the first at index 1"):
        odeint(func, x, t, AdaptiveExponential(recompute=3))


def test_replayed_calls_are_counted():
    calls = []
    func = DampedODEFunc(lambda x: calls.append(1) or torch.sin(x), Learned(1.0, 2.0).double())
    x, t = torch.ones(2, 3, dtype=torch.float64), torch.linspace(0, 1, 4, dtype=torch.float64)
    assert solve(func, x, t, AdaptiveExponential(recompute=3)).nfe.max() == len(calls)
    calls.clear()
    assert solve(func, x, t.requires_grad_()).nfe.max() == len(calls)


def test_a_tensor_that_is_no_parameter_is_named():
    w = torch.tensor(0.5, requires_grad=True)
    loss = Krogstad4(4, recompute=2)(DampedODEFunc(lambda x: torch.sin(w * x)), torch.ones(2, 3), 0.0, 1.0).sum()
    with pytest.raises(ValueError, match=r"a parameter of f or λ: f uses one of shape \(\) that is none; register it"):
        loss.backward()


@pytest.mark.parametrize("saved", SAVED, ids=["fixed", "adaptive"])
def test_exchanged_parameters_are_found_again_in_the_backward_pass(saved):
    """functional_call puts the module's own parameters back before the backward pass runs the segments again."""
    found = []
    for integrator in (PLAIN[SAVED.index(saved)], saved):
        torch.manual_seed(2)
        block = DampedBlock(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Learned(), integrator=integrator).double()
        x = torch.randn(4, 3, dtype=torch.float64)
        block.requires_grad_(False)
        other = {name: (p + 0.3).requires_grad_() for name, p in block.named_parameters()}
        firsts = grad(functional_call(block, other, (x,)).sum(), tuple(other.values()), create_graph=True)
        found.append((firsts, grad(sum(g.square().sum() for g in firsts), tuple(other.values()))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("saved", SAVED, ids=["fixed", "adaptive"])
def test_a_field_that_changes_before_the_backward_pass_is_refused(saved):
    f = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3) if saved is SAVED[0] else nn.Identity()).double()
    block = DampedBlock(f, Constant(1.0), integrator=saved)
    loss = block(torch.randn(4, 3, dtype=torch.float64)).sum()
    block.eval()
    if saved is SAVED[1]:
        f[1] = nn.Tanh()
    with pytest.raises(ValueError, match="gives the same values in the backward pass as before, and it gave others"):
        loss.backward()


def test_segments_inside_other_ways_to_save_memory():
    block = DampedBlock(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), integrator=Krogstad4(4, recompute=2))
    x, params = torch.randn(4, 3), tuple(block.parameters())
    want = grad(block(x).sum(), params)
    torch.testing.assert_close(grad(checkpoint(block, x, use_reentrant=False).sum(), params), want)
    with torch.autograd.graph.save_on_cpu():
        y = block(x)
    torch.testing.assert_close(grad(y.sum(), params), want)


@pytest.mark.parametrize("integrator", [AdaptiveExponential(recompute=4), KenCarp4()], ids=["exponential", "implicit"])
def test_a_solve_of_which_nothing_wants_a_gradient_is_not_repeated(integrator):
    func = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(2.0)).requires_grad_(False)
    x, t = torch.randn(4, 3), torch.linspace(0, 1, 4)
    with torch.no_grad():
        quiet = solve(func, x, t, integrator)
    loud = solve(func, x, t, integrator)
    assert not loud.x.requires_grad
    torch.testing.assert_close(loud.nfe, quiet.nfe + 1)  # that found it
    torch.testing.assert_close(loud.x, quiet.x, rtol=0, atol=0)


def test_what_f_keeps_from_its_first_call_has_a_graph():
    """A cache filled by a solve without a graph would cut its gradients off."""
    f = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Tanh())
    func, x = DampedODEFunc(f, Constant(2.0)), torch.randn(3, 2)
    want = grad(KenCarp4()(func, x, 0.0, 1.0).sum(), tuple(func.parameters()))
    with parametrize.cached():
        got = grad(KenCarp4()(func, x, 0.0, 1.0).sum(), tuple(func.parameters()))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("count", "kind"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)])
def test_recompute_must_be_a_positive_int(count, kind):
    for make in (Krogstad4, AdaptiveExponential):
        with pytest.raises(kind, match="recompute must be a positive int, got"):
            make(recompute=count)


def test_more_segments_than_steps():
    with pytest.raises(ValueError, match=r"recompute must be at most steps, .* got recompute=9, steps=8"):
        Krogstad4(steps=8, recompute=9)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (7, 3), (10, 10), (1000, 32), (3, 5)])
def test_segments_hold_every_step_once(steps, count):
    parts = segments(steps, count)
    assert [n for part in parts for n in part] == list(range(steps))
    assert len(parts) == min(steps, count)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
