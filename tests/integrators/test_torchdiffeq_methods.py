import math
import warnings

import pytest
import torch
import torchdiffeq
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint, solve
from dampode.damping import Constant, Learned
from dampode.fields import TimeDependent, VectorField
from dampode.integrators import IntegrationError, Status, TorchDiffEq
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.paths import Held
from tests.helpers.oracles import Forced


def test_is_torchdiffeq_on_the_vector_field():
    func, x = DampedODEFunc(Forced(3), Constant(0.5)), torch.randn(2, 3, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = torchdiffeq.odeint(func, x, t, rtol=1e-5, atol=1e-7, method="dopri5")[-1]
    torch.testing.assert_close(TorchDiffEq("dopri5")(func, x, 0.0, 1.0), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "method", ["dopri8", "bosh3", "adaptive_heun", "rk4", "explicit_adams", "implicit_adams", "scipy_solver"]
)
def test_other_methods(method):
    func, x = DampedODEFunc(Forced(3), Constant(0.5)), torch.randn(2, 3, dtype=torch.float64)
    options = {"step_size": 0.02} if method in ("rk4", "explicit_adams", "implicit_adams") else None
    expected = TorchDiffEq("dopri5", rtol=1e-9, atol=1e-10)(func, x, 0.0, 1.0)
    with torch.no_grad():
        got = TorchDiffEq(method, options=options)(func, x, 0.0, 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)  # dopri8 interpolates coarsely


def test_a_method_without_gradients_says_so():
    block = DampedBlock(torch.nn.Linear(3, 3), integrator=TorchDiffEq("scipy_solver"))
    with pytest.warns(UserWarning, match="scipy_solver goes through NumPy: .* which want gradients, get none"):
        block(torch.ones(2, 3))


@pytest.mark.parametrize("lam", [0.1, 3.0])
def test_adjoint_gradients_match_backpropagation_at_small_damping(lam):
    x = torch.randn(2, 3, dtype=torch.float64)
    gradients = []
    for adjoint in (False, True):
        func = DampedODEFunc(Forced(3), Learned(lam, lam).double())
        integrator = TorchDiffEq("dopri5", rtol=1e-9, atol=1e-10, adjoint=adjoint)
        loss = integrator(func, x, 0.0, 1.0).square().sum()
        gradients.append(torch.autograd.grad(loss, tuple(func.parameters())))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_unknown_method_lists_the_installed_ones():
    with pytest.raises(ValueError, match=r"method must be one that the installed torchdiffeq offers: .*dopri5"):
        TorchDiffEq("no_such_method")


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf])
def test_tolerances_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        TorchDiffEq(**{name: value})


def test_types():
    with pytest.raises(TypeError, match="adjoint must be of type bool"):
        TorchDiffEq(adjoint="yes")
    with pytest.raises(TypeError, match="options must be of type Mapping"):
        TorchDiffEq("rk4", options=3)


class BadLater(nn.Module):
    """x, but NaN in sample 1 once that sample is above 1."""

    def forward(self, x):
        bad = (x.amax(1, keepdim=True) > 1) & (torch.arange(len(x))[:, None] == 1)
        return torch.where(bad, math.nan, x)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_nan_from_f_is_said_as_such(method):
    options = {"step_size": 0.1} if method == "rk4" else None
    block = DampedBlock(BadLater(), Constant(0.0), integrator=TorchDiffEq(method, options=options), t_span=(0.0, 2.0))
    with pytest.raises(IntegrationError, match=r"NaN or infinity at t = (0\.|1)[\d.]* in 1 samples .* index 1"):
        block(torch.full((3, 2), 0.5))


GIVEN_UP = {
    "NaN later": (BadLater(), {}, Status.NOT_FINITE),
    "NaN at once": (lambda x: x * math.nan, {}, Status.NOT_FINITE),
    "blow-up": (torch.square, {}, Status.STEP_UNDERFLOW),
    "SciPy's blow-up": (torch.square, {"method": "scipy_solver", "options": {"solver": "RK45"}}, Status.STEP_UNDERFLOW),
    "steps": (torch.sin, {"options": {"max_num_steps": 2}}, Status.MAX_STEPS),
}


@pytest.mark.filterwarnings("ignore:The following arguments have no effect")  # torchdiffeq's, of SciPy
@pytest.mark.filterwarnings("ignore:scipy_solver goes through NumPy")
@pytest.mark.parametrize("case", GIVEN_UP)
def test_solve_gives_statuses_where_torchdiffeq_gives_up(case):
    f, settings, status = GIVEN_UP[case]
    calls = []
    func, x = DampedODEFunc(f, Constant(0.0)), torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    func.f.register_forward_hook(lambda *_: calls.append(1))
    t = torch.tensor([0.5, 0.6, 3.0])
    s = solve(func, x, t, TorchDiffEq(**settings))
    assert s.status == (status, status)
    assert s.reached.tolist() == [0.5, 0.5]
    assert s.nfe.tolist() == [len(calls)] * 2
    assert s.accepted.tolist() == s.rejected.tolist() == [-1, -1]
    assert s.x.shape == (3, 2, 3)
    assert torch.equal(s.x[0], x)
    assert torch.isnan(s.x[1:]).all()
    with pytest.raises(IntegrationError, match=r"NaN or infinity at t|could not continue"):
        odeint(func, x, t, TorchDiffEq(**settings))


def test_a_state_of_nan_that_f_does_not_see():
    func, x = DampedODEFunc(torch.ones_like, Constant(0.0)), torch.tensor([[1.0], [math.nan]])
    assert solve(func, x, torch.tensor([0.0, 1.0]), TorchDiffEq()).status == (Status.NOT_FINITE,) * 2


def test_fixed_steps_have_a_status_per_sample():
    func, x = DampedODEFunc(BadLater(), Constant(0.0)), torch.full((3, 2), 0.5)
    s = solve(func, x, torch.tensor([0.0, 0.5, 2.0]), TorchDiffEq("rk4", options={"step_size": 0.1}))
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS)
    assert s.reached.tolist() == [2.0, 0.5, 2.0]


def test_options_that_torchdiffeq_refuses_are_no_status():
    func, options = DampedODEFunc(torch.tanh, Constant(0.0)), {"max_order": 50}
    with pytest.raises(IntegrationError, match="max_order must be at most"):
        solve(func, torch.ones(1, 1), torch.tensor([0.0, 1.0]), TorchDiffEq("implicit_adams", options=options))


def test_nan_at_the_start_names_the_start():
    block = DampedBlock(lambda x: x * math.nan, integrator=TorchDiffEq())
    with pytest.raises(IntegrationError, match="at t = 0 in 2 samples"):
        block(torch.ones(2, 3))


def test_states_without_features_and_spans_without_length():
    block = DampedBlock(lambda x: x * math.nan, integrator=TorchDiffEq())
    with pytest.raises(IntegrationError, match="in 3 samples"):
        block(torch.ones(3))
    x = torch.ones(3)
    assert TorchDiffEq()(block.func, x, 1.0, 1.0) is x


def test_an_assertion_of_f_is_its_own():
    def own(x):
        raise AssertionError("a bug of mine")

    with pytest.raises(AssertionError, match="a bug of mine"):
        DampedBlock(own, integrator=TorchDiffEq())(torch.ones(1, 1))


class Called(VectorField):
    """−x, with torchdiffeq's callbacks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-1.0))
        self.steps = {"forward": 0, "backward": 0}

    def forward(self, t, x):
        return self.weight * x

    def callback_step(self, t, x, dt):
        self.steps["forward"] += 1

    def callback_step_adjoint(self, t, x, dt):
        self.steps["backward"] += 1


@pytest.mark.parametrize("norm", [None, "seminorm"])
def test_callbacks_and_seminorm(norm):
    f = Called()
    func = DampedODEFunc(f, Constant(0.0))
    integrator = TorchDiffEq(adjoint=True, options={"norm": norm} if norm else None)
    odeint(func, torch.ones(2, 3), torch.tensor([0.0, 1.0]), integrator)[-1].sum().backward()
    assert f.steps["forward"] > 1
    assert f.steps["backward"] > 1
    assert f.weight.grad.item() == pytest.approx(6 * math.exp(-1), rel=1e-4)


class CalledWithPairs(Called):
    """The same for a pair, whose callbacks keep what they get."""

    def __init__(self):
        super().__init__()
        self.got = {}

    def forward(self, t, x):
        return self.weight * x[0], 0 * x[1]

    def callback_step(self, t, x, dt):
        self.got["forward"] = x

    def callback_accept_step(self, t, x, dt):
        self.got["accepted"] = x

    def callback_step_adjoint(self, t, x, dt):
        self.got["backward"] = x


@pytest.mark.parametrize("wrap", [lambda f: f, TimeDependent], ids=["field", "module"])
def test_callbacks_of_a_structured_state_get_the_structure(wrap):
    f = CalledWithPairs()
    x = torch.ones(2, 3), torch.ones(2, 2, dtype=torch.complex64)
    xs = odeint(DampedODEFunc(wrap(f), Constant(0.0)), x, torch.tensor([0.0, 1.0]), TorchDiffEq(adjoint=True))
    xs[0][-1].sum().backward()
    for pair in (f.got["forward"], f.got["accepted"], f.got["backward"][1], f.got["backward"][2]):
        assert [(tuple(part.shape), part.dtype) for part in pair] == [
            ((2, 3), torch.float32),
            ((2, 2), torch.complex64),
        ]
    assert len(f.got["backward"]) == 4  # with ∂L/∂t and ∂L/∂weight


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_a_pulse_of_a_path_is_not_missed(sign, adjoint, method):
    """A dose of 1 within a thousandth of the span, at another time for each sample. 50 is an output time as well."""
    times = torch.tensor([[-100.0, 50.0, 50.001], [-100.0, 20.0, 20.001]], dtype=torch.float64)
    values = torch.tensor([0.0, 1000.0, 0.0], dtype=torch.float64).reshape(1, 3, 1)
    dose = nn.Parameter(torch.ones((), dtype=torch.float64))
    held = Held(times if sign > 0 else times - 70, values)

    class Infused(VectorField):
        def __init__(self):
            super().__init__()
            self.dose, self.path = dose, held

        def forward(self, t, x):
            return self.dose * self.path(t) + 0 * x

    func, x = DampedODEFunc(Infused(), Constant(0.0)), torch.zeros(2, 1, dtype=torch.float64)
    t = sign * torch.tensor([0.0, 50.0, 99.0], dtype=torch.float64)
    for options in (None, {"jump_t": torch.tensor([sign * 60.0])}):
        xs = odeint(func, x, t, TorchDiffEq(method, adjoint=adjoint, options=options))
        torch.testing.assert_close(xs[-1], sign * torch.ones_like(x), rtol=1e-6, atol=0)
        if options is None:  # torchdiffeq does not negate a user's option in the backward pass of decreasing times
            assert torch.autograd.grad(xs[-1].sum(), dose)[0].item() == pytest.approx(2 * sign, rel=1e-5)
    with pytest.raises(ValueError, match=r"scipy_solver cannot stop where f or λ is discontinuous, such as t = "):
        odeint(func, x, t, TorchDiffEq("scipy_solver"))


def test_a_complex_state_has_the_gradients_of_the_adjoint():
    z, turn = torch.randn(2, 3, dtype=torch.complex64).requires_grad_(), nn.Parameter(torch.tensor(2.0))

    class Turning(VectorField):
        def __init__(self):
            super().__init__()
            self.turn = turn

        def forward(self, t, z):
            return 1j * self.turn * z

    func, t = DampedODEFunc(Turning(), Constant(0.1)), torch.tensor([0.0, 1.0])
    both = (odeint(func, z, t, TorchDiffEq(adjoint=flag))[-1].real.square().sum() for flag in (True, False))
    for a, b in zip(*(torch.autograd.grad(loss, [z, turn]) for loss in both), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_seminorm_is_of_the_adjoint():
    with pytest.raises(ValueError, match='"seminorm" needs adjoint=True'):
        TorchDiffEq(options={"norm": "seminorm"})


class Explodes(nn.Module):
    """−w x, but NaN when a gradient is wanted, which is in the backward pass of the adjoint alone."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(50.0))

    def forward(self, x):
        return torch.where(x.requires_grad * (x > 0), torch.nan, -self.w * x)


def test_a_backward_pass_of_the_adjoint_that_fails_is_worded():
    func = DampedODEFunc(Explodes(), Constant(0.0))
    end = odeint(func, torch.ones(2, 3), torch.tensor([0.0, 0.1]), TorchDiffEq(adjoint=True))[-1]
    with pytest.raises(IntegrationError, match="adjoint=True re-integrates the state backwards, got"):
        end.sum().backward()


def test_blow_up_is_worded():
    block = DampedBlock(torch.square, Constant(0.0), integrator=TorchDiffEq(), t_span=(0.0, 2.0))
    with pytest.raises(IntegrationError, match=r"could not continue .*(underflow in dt|not finite)|NaN or infinity"):
        block(torch.ones(1, 1))


def test_scipy_is_not_given_a_state_that_is_not_finite():
    func, x = DampedODEFunc(Forced(3), Constant(0.5)), torch.full((2, 3), math.nan)
    with pytest.raises(IntegrationError, match="scipy_solver needs a finite initial state"):
        TorchDiffEq("scipy_solver")(func, x, 0.0, 1.0)


class Drive(VectorField):
    """cos(ωt), whatever the state."""

    def forward(self, t, x):
        return torch.cos(5.0 * t).expand_as(x)


@pytest.mark.parametrize("start", [1.0, 1e6])
def test_scipy_gets_times_that_are_not_rounded(start):
    t = start + torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    x = torch.full((2, 2), 0.3, dtype=torch.float64)
    xs = odeint(DampedODEFunc(Drive(), Constant(0.0)), x, t, TorchDiffEq("scipy_solver", 1e-9, 1e-9))
    assert torch.equal(xs[0], x)
    exact = x + ((torch.sin(5.0 * t) - torch.sin(5.0 * t[0])) / 5.0)[:, None, None]
    torch.testing.assert_close(xs, exact, rtol=0, atol=1e-7)


def test_scipys_adjoint_has_the_gradients_of_the_state_and_the_times():
    x = torch.full((2, 2), 0.3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    gradients = []
    for integrator in (TorchDiffEq("scipy_solver", 1e-10, 1e-10, adjoint=True), TorchDiffEq("dopri5", 1e-10, 1e-10)):
        xs = odeint(DampedODEFunc(Forced(2), Constant(0.3)), x, t, integrator)
        gradients.append(torch.autograd.grad(xs[1:].square().sum(), (x, t)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)


ENDS = {"as it comes": {}, "steps that end at times": {"first_step": 0.25}, "own ends": {"step_t": torch.tensor([0.6])}}


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("options", ENDS)
@pytest.mark.parametrize("method", ["bosh3", "dopri8"])
def test_no_answer_is_interpolated_coarsely(method, options, direction):
    func, tol = DampedODEFunc(torch.sin, Constant(0.2)), 1e-8
    t = direction * torch.tensor([0.0, 0.25, 0.5, 0.75, 1.3], dtype=torch.float64)
    step_t = {name: direction * value for name, value in ENDS[options].items()} if options == "own ends" else {}
    x = torch.tensor([[0.4, 1.0]], dtype=torch.float64, requires_grad=True)
    exact = odeint(func, x, t, TorchDiffEq("dopri5", 1e-12, 1e-12))
    expected = torch.autograd.grad(exact[1:].sum(), x)[0]
    for adjoint in (False, True):
        xs = odeint(func, x, t, TorchDiffEq(method, tol, tol, adjoint, ENDS[options] | step_t))
        assert ((xs - exact).abs() < 20 * tol).all()
        gradient = torch.autograd.grad(xs[1:].sum(), x)[0]
        assert ((gradient - expected).abs() < 200 * tol).all()


def test_an_adjoint_that_takes_too_many_steps_is_worded():
    func = DampedODEFunc(Forced(2), Constant(0.3))
    x = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.1, 3.0], dtype=torch.float64)
    bounded = TorchDiffEq("bosh3", 1e-9, 1e-2, adjoint=True, options={"max_num_steps": 100})
    end = odeint(func, x, t, bounded)[-1]
    end.sum().backward(retain_graph=True)
    end.sum().backward(retain_graph=True)  # the count begins anew
    with pytest.raises(IntegrationError, match=r"got more than max_num_steps = 100 steps .* raise max_num_steps"):
        (1e9 * end).sum().backward()


@pytest.mark.parametrize("method", ["bosh3", "adaptive_heun"])
@pytest.mark.parametrize("stiffness", [1.0, 1000.0])
def test_stiffness_is_measured_without_two_stages_at_one_time(method, stiffness):
    func = DampedODEFunc(lambda x: stiffness * (torch.tanh(0.5 * x.flip(-1)) - x), Constant(0.0))
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        odeint(func, torch.tensor([[0.4, -1.0]], dtype=torch.float64), t, TorchDiffEq(method, 1e-4, 1e-4))
    assert [w.category for w in caught] == [StiffnessWarning] * (stiffness > 1)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun"])
@pytest.mark.parametrize("wanted", [True, False])
def test_gradients_through_a_state_at_rest_are_not_to_be_trusted(method, wanted):
    """The steps grow beyond stability, which a state of exact zeros does not show."""
    x = torch.zeros(1, 1, requires_grad=wanted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        odeint(DampedODEFunc(torch.square, Constant(1e3)), x, torch.tensor([0.0, 1e3]), TorchDiffEq(method))
    assert ["do not trust gradients" in str(w.message) for w in caught] == [True] * wanted


def test_fehlberg2_says_that_it_underestimates_its_errors():
    func = DampedODEFunc(torch.tanh, Constant(0.0))
    with pytest.warns(UserWarning, match="fehlberg2 estimates about a hundredth of its error"):
        odeint(func, torch.ones(1, 1), torch.tensor([0.0, 1.0]), TorchDiffEq("fehlberg2"))
