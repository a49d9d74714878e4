"""Tensors that want a gradient outside of f's parameters, and fields that differentiate inside."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import grad
from torch.distributed.fsdp import fully_shard

from dampode import DampedBlock, DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, KenCarp4, Krogstad4, TorchDiffEq

LIMITED = {
    "recompute=": Krogstad4(4, recompute=2),
    "recompute= adaptive": AdaptiveExponential(recompute=2),
    "adjoint=True": TorchDiffEq(adjoint=True),
}


class Frozen(nn.Module):
    """tanh of a frozen layer of x, plus a context from elsewhere, which is no parameter."""

    def __init__(self, context):
        super().__init__()
        self.net, self.context = nn.Linear(3, 3).requires_grad_(False), context

    def forward(self, x):
        return torch.tanh(self.net(x)) + self.context


def outside_fields():
    net, encoder, weight = nn.Linear(3, 3), nn.Linear(2, 3), torch.ones(3, requires_grad=True)
    return {
        "closure": lambda x: net(x),
        "bound method": net.forward,
        "encoder's output": Frozen(encoder(torch.ones(1, 2))),
        "leaf": Frozen(weight),
    }


@pytest.mark.parametrize("case", list(outside_fields()))
@pytest.mark.parametrize("option", LIMITED)
@pytest.mark.parametrize("wants", [False, True])
def test_gradients_of_tensors_that_are_no_parameters_are_not_dropped(case, option, wants):
    torch.manual_seed(0)
    func = DampedODEFunc(outside_fields()[case], Constant(1.0))
    x = torch.ones(2, 3, requires_grad=wants)
    with pytest.raises(ValueError, match=rf"{option.split()[0]} needs every tensor .* to be a parameter of f or λ"):
        LIMITED[option](func, x, 0.0, 1.0).sum().backward()
    with torch.no_grad():
        LIMITED[option](func, x, 0.0, 1.0)


def test_a_tensor_inside_rho_is_not_dropped():
    scale = torch.tensor(0.5, requires_grad=True)
    func = DampedODEFunc(nn.Linear(3, 3), Constant(1.0), lambda lam: scale * lam)
    for integrator in LIMITED.values():
        with pytest.raises(ValueError, match=r"f uses one of shape \(\) that is none"):
            integrator(func, torch.ones(2, 3), 0.0, 1.0).sum().backward()


def test_the_adjoint_takes_a_function_without_parameters():
    func = DampedODEFunc(torch.sin, Constant(1.0))
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    got, want = (
        grad(TorchDiffEq(rtol=1e-8, atol=1e-9, adjoint=adjoint)(func, x, 0.0, 1.0).sum(), x)[0]
        for adjoint in (True, False)
    )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


class Energy(VectorField):
    """−∇E(x), with E a small network."""

    def __init__(self, fresh):
        super().__init__()
        self.net, self.fresh = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), fresh

    def forward(self, t, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_() if self.fresh else x.requires_grad_()
            return -grad(self.net(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("plain", "saved"),
    [(Krogstad4(8), Krogstad4(8, recompute=3)), (AdaptiveExponential(), AdaptiveExponential(recompute=3))],
    ids=["fixed", "adaptive"],
)
def test_a_field_that_differentiates_inside(plain, saved, fresh):
    torch.manual_seed(0)
    func = DampedODEFunc(Energy(fresh), Constant(1.0)).double()
    x, found = torch.randn(2, 3, dtype=torch.float64), []
    for integrator in (plain, saved):
        with torch.no_grad():
            quiet = integrator(func, x.clone(), 0.0, 1.0)
        xs = integrator(func, x.clone().requires_grad_(), 0.0, 1.0)
        torch.testing.assert_close(xs, quiet)
        found.append(grad(xs.square().sum(), tuple(func.parameters()), materialize_grads=True))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)
    func.requires_grad_(False)
    torch.testing.assert_close(saved(func, x.clone(), 0.0, 1.0), quiet)


class Flow(VectorField):
    """A continuous normalizing flow: a point and its log density, from whose state f cuts the point."""

    def __init__(self, exact):
        super().__init__()
        self.net, self.exact = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)), exact
        self.register_buffer("probe", torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]))

    def forward(self, t, x):
        z = x[:, :2]
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            f = self.net(z)
            probes = torch.eye(2, dtype=x.dtype)[:, None].expand(2, 3, 2) if self.exact else self.probe[None]
            trace = sum((grad(f, z, probe, create_graph=True)[0] * probe).sum(1, keepdim=True) for probe in probes)
        return torch.cat((f, -trace), 1)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    "integrator",
    [
        Krogstad4(20, recompute=3),
        AdaptiveExponential(1e-6, 1e-7),
        AdaptiveExponential(1e-6, 1e-7, recompute=2),
        KenCarp4(1e-6, 1e-7),
    ],
    ids=["fixed", "adaptive", "adaptive, recompute", "implicit"],
)
def test_the_trace_of_a_flow(integrator, wanted, exact):
    torch.manual_seed(0)
    func = DampedODEFunc(Flow(exact), Constant(1.0)).double()
    x = torch.cat((torch.randn(3, 2), torch.zeros(3, 1)), 1).double().requires_grad_(wanted)
    variables = (*func.parameters(), *([x] if wanted else []))
    found = []
    for method in (integrator, TorchDiffEq("dopri5", 1e-9, 1e-10)):
        xs = odeint(func, x, torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), method)
        found.append((xs.detach(), *grad(xs.square().sum(), variables)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_a_field_that_differentiates_where_gradients_are_off_is_told_so():
    func = DampedODEFunc(lambda x: grad(torch.cos(x.requires_grad_()).sum(), x)[0], Constant(1.0))
    for integrator in (AdaptiveExponential(), KenCarp4()):
        with pytest.raises(RuntimeError) as info, torch.no_grad():
            odeint(func, torch.ones(2, 3), torch.tensor([0.0, 1.0]), integrator)
        assert "must do so `with torch.enable_grad():`" in info.value.__notes__[0]


@pytest.fixture
def alone():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_sharded_weights(alone):
    x, found = torch.randn(2, 3, dtype=torch.float64), []
    for integrator in (Krogstad4(4), AdaptiveExponential(), AdaptiveExponential(recompute=2), KenCarp4()):
        for sharded in (False, True):
            torch.manual_seed(0)
            func = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(1.0)).double()
            if sharded:
                fully_shard(func.f, mesh=alone)
            integrator(func, x, 0.0, 1.0).square().sum().backward()
            found.append([p.grad.full_tensor() if sharded else p.grad for p in func.parameters()])
        for got, want in zip(*found[-2:], strict=True):
            torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="adjoint=True needs whole parameters, got one that is sharded"):
        TorchDiffEq(adjoint=True)(func, x, 0.0, 1.0)
    func = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(1.0)).double()
    fully_shard(func, mesh=alone)
    with pytest.raises(RuntimeError) as info:
        AdaptiveExponential()(func, x, 0.0, 1.0)
    assert "call fully_shard(func.f) or fully_shard(block)" in info.value.__notes__[0]


@pytest.mark.parametrize("wrap", [torch.optim.swa_utils.AveragedModel, nn.DataParallel, torch.compile])
def test_a_wrapped_vector_field_is_told_to_wrap_inside(wrap):
    block = DampedBlock(wrap(Energy(True)))
    with pytest.raises(TypeError, match=r"f\.compile\(\) instead of torch\.compile\(f\)"):
        block(torch.ones(2, 3))


def test_a_vector_field_compiled_in_place_stays_one():
    f = Energy(True)
    f.compile(backend="eager")
    assert DampedODEFunc(f).f is f


def test_complex_numbers_are_not_told_to_lose_a_part():
    x = torch.tensor([[1 + 2j, 3 - 1j]])
    torch.testing.assert_close(DampedBlock(torch.sin, Constant(0.0))(x), x + torch.sin(x))
    with pytest.raises(TypeError, match=r"return torch\.view_as_real of it"):
        DampedBlock(lambda x: 1j * x)(torch.ones(2, 3))
    with pytest.raises(TypeError, match="λ must be real"):
        Constant(torch.ones(2, dtype=torch.complex64))


def test_a_field_that_differentiates_inside_while_torch_compile_is_at_work():
    """Inside compiled code, Python keeps the arguments of a call until it returns, and a graph with them."""

    def field(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -grad(torch.cos(x).sum(), x, create_graph=True)[0]

    func, x = DampedODEFunc(field, Constant(1.0)), torch.ones(2, 3)

    @torch.compiler.disable
    def solve(x):
        return Krogstad4(8, recompute=3)(func, x, 0.0, 1.0)

    got = torch.compile(lambda x: solve(x) + 0, backend="eager")(x)
    torch.testing.assert_close(got, Krogstad4(8)(func, x, 0.0, 1.0))


@pytest.mark.parametrize("integrator", [Krogstad4(2), AdaptiveExponential(), KenCarp4(), TorchDiffEq()])
def test_a_state_that_wants_a_gradient_is_not_changed_in_place(integrator):
    func, x = DampedODEFunc(lambda x: x.mul_(0.5), Constant(1.0)), torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="f must leave the state as it is"):
        odeint(func, x, torch.tensor([0.0, 1.0]), integrator)
