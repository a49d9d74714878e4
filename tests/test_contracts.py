"""Every concrete damping and integrator, found by inspection, is held to the same laws."""

import copy
import importlib
import inspect
import pickle
import pkgutil

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import dampode
from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant, Damping, Gated, Learned, Matrix, PerPart
from dampode.eigen_coordinates import Eigenvalues
from dampode.fields import Autonomous
from dampode.integrators import (
    ETD2RK,
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    FixedStep,
    HochbruckOstermann3,
    HochbruckOstermann4,
    Integrator,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    SteadyState,
    TorchDiffEq,
)
from dampode.weighting import one_plus, unit
from tests.helpers.dampings import Liquid, Pulsating
from tests.helpers.oracles import Forced, final_state

for found in pkgutil.walk_packages(dampode.__path__, "dampode."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)

# one instance a concrete class; where a class is missing, test_every_class_is_under_contract fails
DAMPINGS = {
    Constant: lambda: Constant(0.7),
    Learned: lambda: Learned(0.2, 0.25, shape=(3, 1, 1)),
    Gated: lambda: Gated(3, act=torch.sigmoid),
}
INTEGRATORS = {
    ExponentialEuler: ExponentialEuler(),
    LinearizedEuler: LinearizedEuler(),
    ETD2RK: ETD2RK(),
    HochbruckOstermann3: HochbruckOstermann3(),
    Krogstad4: Krogstad4(),
    HochbruckOstermann4: HochbruckOstermann4(),
    AdaptiveExponential: AdaptiveExponential(rtol=1e-9, atol=1e-10),
    ExponentialAdams: ExponentialAdams(rtol=1e-8, atol=1e-9),
    KenCarp4: KenCarp4(rtol=1e-7, atol=1e-8),
    TorchDiffEq: TorchDiffEq("dopri5", rtol=1e-9, atol=1e-10),
}
TO_INFINITY = {SteadyState: SteadyState(rtol=1e-9, atol=1e-10)}  # no state at a finite time: no order, no way back


def concrete(base):
    kinds = {kind for child in base.__subclasses__() for kind in (child, *concrete(child))}
    kinds -= {PerPart}  # λ of several tensors, which tests/test_structures.py holds to its own laws
    kinds -= {Matrix, Eigenvalues}  # no λ per number of a real state: tests/test_damping_matrix.py
    public = {kind for kind in kinds if not kind.__name__.startswith("_")}
    return {kind for kind in public if not inspect.isabstract(kind) and kind.__module__.startswith("dampode.")}


def named(items):
    return [pytest.param(item, id=kind.__name__) for kind, item in items.items()]


every_damping = pytest.mark.parametrize("make", named(DAMPINGS))
every_integrator = pytest.mark.parametrize("integrator", named(INTEGRATORS))
every_integrator_or_limit = pytest.mark.parametrize("integrator", named(INTEGRATORS | TO_INFINITY))
every_fixed_step = pytest.mark.parametrize(
    "integrator", named({k: i for k, i in INTEGRATORS.items() if isinstance(i, FixedStep)})
)


# a difference quotient sees where an inner solve stops, and where the order changes: their own tests compare with a
# tight reference
every_smooth_control = pytest.mark.parametrize(
    "integrator", named({k: i for k, i in INTEGRATORS.items() if k not in (KenCarp4, ExponentialAdams)})
)


@pytest.mark.parametrize(("base", "known"), [(Damping, DAMPINGS), (Integrator, INTEGRATORS | TO_INFINITY)])
def test_every_class_is_under_contract(base, known):
    assert concrete(base) == set(known)


# dampings ------------------------------------------------------------------------------------------------------


@every_damping
def test_damping_follows_the_state(make, dtype):
    damping, x = make().to(dtype), torch.randn(2, 3, 4, 4, dtype=dtype)
    lam = damping(0.5, x)
    assert lam.dtype == dtype
    assert lam.device == x.device
    assert torch.broadcast_shapes(lam.shape, x.shape) == x.shape
    assert (lam >= 0).all()
    assert damping.varies == damping.depends_on_state or damping.depends_on_time
    if not damping.depends_on_state:
        torch.testing.assert_close(damping(0.5, x + 1), lam, rtol=0, atol=0)
    if not damping.depends_on_time:
        torch.testing.assert_close(damping(1.5, x), lam, rtol=0, atol=0)


@every_damping
def test_damping_survives_copy_pickle_and_state_dict(make):
    damping, x = make(), torch.randn(2, 3, 4, 4)
    for twin in (copy.deepcopy(damping), pickle.loads(pickle.dumps(damping))):
        assert torch.equal(twin(0.5, x), damping(0.5, x))
    torch.manual_seed(1)
    other = make()
    other.load_state_dict(damping.state_dict())
    assert torch.equal(other(0.5, x), damping(0.5, x))


@every_damping
def test_damping_gradients(make):
    damping = make().double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(damping.parameters())
    assert gradcheck(lambda v, *p: v * damping(0.5, v), (x, *parameters))


LAM_KINDS = ["λ per channel", "λ(x)", "λ(t)", "λ(t, x)"]


def per_channel():
    return Constant(torch.tensor([0.0, 0.3, 1.0, 3.0], dtype=torch.float64))


# integrators ---------------------------------------------------------------------------------------------------


@every_integrator
def test_without_damping_and_with_constant_f_a_step_adds_h_f(integrator, dtype):
    c, x = torch.randn(5, dtype=dtype), torch.randn(2, 5, dtype=dtype)
    func = DampedODEFunc(lambda x: c.expand_as(x), Constant(0.0), one_plus)
    torch.testing.assert_close(integrator(func, x, 0.0, 0.5), x + 0.5 * c)


@every_integrator
def test_integrates_backwards(integrator):
    func = DampedODEFunc(Forced(3), Constant(0.5))
    x = torch.randn(2, 3, dtype=torch.float64)
    fine = copy.copy(integrator) if not isinstance(integrator, FixedStep) else type(integrator)(steps=4000)
    back = fine(func, fine(func, x, 0.0, 0.5), 0.5, 0.0)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("make", [per_channel, lambda: Gated(4).double(), Pulsating, Liquid], ids=LAM_KINDS)
@every_integrator
def test_agrees_with_dop853_at_its_order(integrator, make, rho):
    """λ per channel, λ(x), λ(t) or λ(t, x), a coupled and forced field; a fixed step halves its error 2^order times."""
    damping = make()
    func = DampedODEFunc(Forced(4), damping, rho)
    x = torch.randn(3, 4, dtype=torch.float64)
    exact = final_state(func, x, 0.1, 1.1)
    if not isinstance(integrator, FixedStep):
        torch.testing.assert_close(integrator(func, x, 0.1, 1.1), exact, rtol=1e-6, atol=1e-7)
        return
    counts = (20, 40, 80)
    errors = [(type(integrator)(steps=n)(func, x, 0.1, 1.1) - exact).norm().item() for n in counts]
    observed = torch.tensor(errors[0] / errors[-1]).log2().item() / 2
    assert observed == pytest.approx(integrator.order, abs=0.3)


@pytest.mark.parametrize(
    "make", [lambda: Learned(0.3, 0.9, shape=(3,)).double(), lambda: Liquid(3)], ids=["λ", "λ(t, x)"]
)
@every_smooth_control
def test_integrator_gradients(integrator, make):
    func = DampedODEFunc(Forced(3), make(), one_plus)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(func.parameters())
    assert gradcheck(lambda v, *p: integrator(func, v, 0.0, 0.7), (x, *parameters), eps=1e-6, atol=1e-5)


@every_smooth_control
def test_integrator_second_derivatives(integrator):
    func = DampedODEFunc(Forced(2), Learned(0.3, 0.9, shape=(2,)).double(), one_plus)
    x = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(func.parameters())
    assert gradgradcheck(lambda v, *p: integrator(func, v, 0.0, 0.2), (x, *parameters), eps=1e-5, atol=1e-4)


@every_integrator_or_limit
def test_keeps_dtype_device_and_batch(integrator, dtype):
    func = DampedODEFunc(Forced(3, dtype=dtype), Constant(2.0))
    x = torch.randn(4, 3, dtype=dtype)
    together = integrator(func, x, 0.0, 1.0)
    assert (together.shape, together.dtype, together.device) == (x.shape, x.dtype, x.device)
    alone = torch.cat([integrator(func, sample[None], 0.0, 1.0) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@every_integrator_or_limit
def test_integrator_is_a_value(integrator):
    for twin in (copy.deepcopy(integrator), pickle.loads(pickle.dumps(integrator))):
        assert twin == integrator
        assert hash(twin) == hash(integrator)
    assert repr(integrator).startswith(type(integrator).__name__)
    with pytest.raises(AttributeError):
        integrator.steps = 3


@every_fixed_step
@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_steps_must_be_a_positive_int(integrator, steps):
    with pytest.raises((ValueError, TypeError), match="steps must be a positive int, got"):
        type(integrator)(steps=steps)


@pytest.mark.parametrize("gated", [False, True])
@every_fixed_step
def test_compiles_in_one_graph(integrator, gated):
    block = small_block(type(integrator)(steps=2), gated)
    x = torch.randn(4, 3)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
    want = torch.autograd.grad(block(x).sum(), tuple(block.parameters()))
    got = torch.autograd.grad(compiled(x).sum(), tuple(block.parameters()))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("gated", [False, True])
@every_fixed_step
def test_exports_with_a_dynamic_batch(integrator, gated):
    block = small_block(type(integrator)(steps=2), gated).eval()
    program = torch.export.export(block, (torch.randn(4, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(9, 3)
    torch.testing.assert_close(program.module()(x), block(x))


@every_fixed_step
def test_vmaps(integrator):
    block, x = small_block(integrator, gated=True), torch.randn(5, 2, 3)
    torch.testing.assert_close(torch.vmap(block)(x), torch.stack([block(part) for part in x]))


@every_fixed_step
def test_autocast(integrator):
    block, x = small_block(integrator, gated=False), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x).dtype == torch.float32
        assert block(x.bfloat16()).dtype == torch.bfloat16
        torch.testing.assert_close(block(x), block(x.bfloat16()).float(), rtol=0.05, atol=0.05)


@pytest.mark.gpu
@every_integrator_or_limit
def test_on_cuda(integrator):
    assert torch.cuda.is_available()
    block = DampedBlock(Autonomous(nn.Linear(3, 3)), Learned(), one_plus, integrator)
    x = torch.randn(4, 3)
    expected = block(x)
    torch.testing.assert_close(block.cuda()(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)


def small_block(integrator, gated):
    damping = Gated(3) if gated else Learned(shape=(3,))
    return DampedBlock(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), damping, one_plus, integrator)


@every_integrator_or_limit
def test_a_field_that_changes_the_state_in_place_is_refused(integrator):
    """A pre-activation branch that begins with ReLU(inplace=True) would damp relu(x) in the place of x."""
    block = DampedBlock(nn.Sequential(nn.ReLU(inplace=True), nn.Tanh()), Constant(0.5), integrator=integrator)
    with torch.no_grad(), pytest.raises(ValueError, match="f must leave the state as it is"):
        block(torch.randn(2, 3))
