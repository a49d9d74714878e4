import math

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, Jumps, solve
from dampode.damping import Constant, Gated, Learned
from dampode.integrators import ExponentialEuler
from dampode.sequence import DampedScan, InputGated, ScanBlock

SCALES = (0.5, 20.0)


def series(n=3, steps=9, channels=2, dtype=torch.float64):
    x = torch.randn(n, steps, channels, dtype=dtype)
    return x, torch.rand(n, steps, dtype=torch.float64).cumsum(1), torch.rand(n, steps, channels) < 0.4


def gated(inputs=4, channels=5):
    gate = InputGated(inputs, channels, SCALES)
    nn.init.normal_(gate.gate.weight, std=0.3)
    return gate


def rates(scan, u):
    lam = scan.damping(u) if isinstance(scan.damping, InputGated) else scan.damping(0.0, u)
    return lam if scan.frequency is None else torch.complex(*torch.broadcast_tensors(lam, scan.frequency))


def one_by_one(scan, x, times, mask):
    """Outputs of a scan from its definition, one sample and one step at a time."""
    outputs = []
    for values, row, seen in zip(x, times, mask, strict=True):
        h = torch.zeros(scan.hidden_size, dtype=x.dtype if scan.frequency is None else torch.complex128)
        last = torch.zeros(scan.write.in_features, dtype=x.dtype)
        before, states = row[0], []
        for value, time, observed in zip(values, row, seen, strict=True):
            h = torch.exp(-rates(scan, last) * (time - before)) * h
            if observed.any():
                last = torch.cat((torch.where(observed, value, 0.0), observed.to(x.dtype)))
                written = scan.write(last)
                h = h + (written if scan.frequency is None else torch.view_as_complex(written.reshape(-1, 2)))
            before = time
            states.append(scan.read(torch.view_as_real(h).flatten() if h.is_complex() else h))
        outputs.append(torch.stack(states))
    return torch.stack(outputs)


@pytest.mark.parametrize("damping", [SCALES, gated(), Constant(0.3), Learned(0.1, 0.4, shape=(5,))])
@pytest.mark.parametrize("oscillating", [False, True])
def test_equals_the_steps(damping, oscillating):
    scan = DampedScan(2, 5, damping, masked=True, oscillating=oscillating).double()
    x, times, mask = series()
    y, last = scan(x, times, mask)
    expected = one_by_one(scan, x, times, mask)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    parameters = [p for p in scan.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad((out**2).sum(), parameters, allow_unused=True) for out in (y, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert last.is_complex() == oscillating


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
def test_parts_of_time_equal_one_part(monkeypatch, held, oscillating):
    scan = DampedScan(2, 5, gated(), masked=True, held=held, oscillating=oscillating).double()
    x, times, mask = series(3, 50)
    parameters = list(scan.parameters())
    found = []
    for elements in (1 << 17, 1):
        monkeypatch.setattr("dampode.sequence.scan._PART", elements)
        y, last = scan(x, times, mask)
        found.append((y, last, *torch.autograd.grad(y.square().sum() + last.abs().sum(), parameters)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_equals_a_solve_with_jumps():
    scan = DampedScan(2, 5, SCALES).double()
    x, times, _ = series()
    written = scan.write(x)
    func = DampedODEFunc(torch.zeros_like, scan.damping)
    jumps = Jumps(times, lambda j, h: h + written[torch.arange(len(h)), j])
    states = solve(func, torch.zeros(3, 5, dtype=torch.float64), times, integrator=ExponentialEuler(), jumps=jumps).x
    _, last = scan(x, times)
    torch.testing.assert_close(last, states[-1], rtol=1e-12, atol=1e-12)
    parameters = [scan.damping.raw, scan.write.weight]
    for one, other in zip(
        torch.autograd.grad(last.square().sum(), parameters),
        torch.autograd.grad(states[-1].square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_oscillates_as_it_decays():
    scan = DampedScan(1, 1, Constant(0.2), oscillating=True).double()
    assert scan.frequency.item() == pytest.approx(2 * math.pi * 0.2)
    with torch.no_grad():
        scan.frequency.fill_(3.0)
    times = torch.tensor([[0.0, 1.7]], dtype=torch.float64)
    _, last = scan(torch.zeros(1, 2, 1).double(), times, h0=torch.ones(1, 1, dtype=torch.complex128))
    assert last.item() == pytest.approx(complex(math.exp(-0.34) * math.cos(5.1), -math.exp(-0.34) * math.sin(5.1)))


@pytest.mark.parametrize("damping", [SCALES, gated()])
def test_no_output_depends_on_padding_batch_or_cuts(damping):
    scan = DampedScan(2, 5, damping, masked=True).double()
    x, times, mask = series()
    mask[:, 0] = True
    alone, last = scan(x[1:2, :6], times[1:2, :6], mask[1:2, :6])
    times[1, 6:], x[1, 6:] = torch.nan, torch.nan
    y, states = scan(x, times, mask)
    torch.testing.assert_close(y[1, :6], alone[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(states[1], last[0], rtol=1e-13, atol=1e-13)
    assert (y[1, 6:] == 0).all()
    kept = [0, 2, 5]
    mask[0, [1, 3, 4]] = False  # steps that only cut the gaps
    mask[0, kept] = True
    cut, whole = scan(x[:1, :6], times[:1, :6], mask[:1, :6]), scan(x[:1, kept], times[:1, kept], mask[:1, kept])
    torch.testing.assert_close(cut[0][:, kept], whole[0], rtol=1e-12, atol=1e-12)


def test_gaps_of_zero_and_of_any_length():
    scan = DampedScan(1, 4, SCALES)
    x = torch.ones(1, 3, 1)
    _, last = scan(x, torch.zeros(1, 3))
    torch.testing.assert_close(last, 3 * scan.write(x[:, 0]))
    y, last = scan(x, torch.tensor([[0.0, 1e30, 1e300]], dtype=torch.float64))
    y.sum().backward()
    torch.testing.assert_close(last, scan.write(x[:, 0]))
    assert torch.isfinite(scan.damping.raw.grad).all()


def test_bfloat16_follows_float32():
    scan = DampedScan(2, 8, SCALES)
    x, times, _ = series(steps=200, dtype=torch.float32)
    y, _ = scan(x, times)
    half, state = scan.bfloat16()(x.bfloat16(), times)
    assert half.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)


def test_block_trains():
    block = nn.Sequential(ScanBlock(6, SCALES, oscillating=True), ScanBlock(6, InputGated(6, 6, SCALES), dropout=0.1))
    out = block(torch.randn(2, 5, 6))
    assert out.shape == (2, 5, 6)
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_compiles_to_one_graph():
    scan = DampedScan(2, 5, SCALES)
    x, times, _ = series(dtype=torch.float32)
    compiled = torch.compile(scan, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, times)[0], scan(x, times)[0])


def test_refuses_what_is_not_linear():
    with pytest.raises(ValueError, match="does not depend on the state"):
        DampedScan(2, 5, Gated(5, dim=-1))


def test_refuses_a_state_of_another_shape_or_type():
    x, times, _ = series()
    with pytest.raises(ValueError, match="h0 must be"):
        DampedScan(2, 5, SCALES).double()(x, times, h0=torch.zeros(3, 4))


@pytest.mark.parametrize("time", [1e-40, 1e39])
def test_a_time_scale_that_the_unit_makes_zero_or_infinite(time):
    with pytest.raises(ValueError, match="unit"):
        DampedScan(2, 5, (min(time, 1.0), max(time, 1.0)))


@pytest.mark.parametrize("raw", [-200.0, 200.0, float("nan")])
def test_a_rate_that_training_made_zero_or_infinite(raw):
    scan = DampedScan(2, 5, SCALES)
    nn.init.constant_(scan.damping.raw, raw)
    with pytest.raises(ValueError, match="unit"):
        scan(torch.ones(1, 2, 2))
