import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dampode import DampedODEFunc, Jumps, solve, weighting
from dampode.damping import Constant, Gated
from dampode.integrators import AdaptiveExponential, ExponentialEuler
from dampode.sequence import DampedCell, DampedRNN, InputGated, learned_time_scales, state_gated_time_scales
from dampode.sequence.relaxing_gru import relaxing_gru

SCALES = (0.5, 20.0)


def series(n=3, steps=9, channels=2, dtype=torch.float64):
    x = torch.randn(n, steps, channels, dtype=dtype)
    return x, torch.rand(n, steps, dtype=torch.float64).cumsum(1), torch.rand(n, steps, channels) < 0.4


def input_gated(inputs, size, masked):
    cell = DampedCell(inputs, size, InputGated(inputs * (1 + masked), size, SCALES), masked=masked)
    nn.init.normal_(cell.damping.gate.weight, std=0.3)
    return cell


def state_gated(inputs, size, masked):
    cell = DampedCell(inputs, size, state_gated_time_scales(SCALES, size), masked=masked)
    nn.init.normal_(cell.damping.gate.weight, std=0.3)
    return cell


def ode_rnn(inputs, size, masked):
    f = nn.Sequential(nn.Linear(size, size), nn.Tanh())
    integrator = AdaptiveExponential(rtol=1e-6, atol=1e-8)
    return DampedCell(inputs, size, Constant(0.0), masked=masked, field=f, rho=weighting.unit, integrator=integrator)


def gru_ode(inputs, size, masked):
    """λ = 1 − z(h), f the candidate n(h): h' = (1 − z)(n − h)."""
    candidate = nn.Sequential(nn.Linear(size, size), nn.Tanh())
    integrator = AdaptiveExponential(rtol=1e-6, atol=1e-8)
    return DampedCell(inputs, size, Gated(size, dim=-1), masked=masked, field=candidate, integrator=integrator)


def plain(inputs, size, masked):
    cell = DampedCell(inputs, size, SCALES, masked=masked)
    nn.init.normal_(cell.field.value)
    return cell


def one_number(inputs, size, masked):
    return DampedCell(inputs, size, Constant(0.3), masked=masked)


def no_decay(inputs, size, masked):
    return DampedCell(inputs, size, Constant(0.0), masked=masked)


KINDS = pytest.mark.parametrize("kind", [plain, one_number, no_decay, input_gated, state_gated, ode_rnn, gru_ode])


def one_by_one(cell, x, times, mask):
    """The states of a cell from its definition, with every decay from the last observation."""
    states, h, begin, last = [], torch.zeros(len(x), cell.hidden_size, dtype=x.dtype), times[:, 0], None
    for k in range(x.shape[1]):
        before = cell.decay(h, times[:, k] - begin, last, begin)
        seen = mask[:, k].any(1)
        u = torch.cat((torch.where(mask[:, k], x[:, k], 0.0), mask[:, k].to(x.dtype)), 1)
        after = torch.where(seen[:, None], cell.update(u, before), before)
        states.append(after)
        h, begin = torch.where(seen[:, None], after, h), torch.where(seen, times[:, k], begin)
        last = torch.where(seen[:, None], u, torch.zeros_like(u) if last is None else last)
    return torch.stack(states, 1)


@KINDS
def test_equals_the_cells(kind):
    rnn = DampedRNN(2, 5, SCALES, masked=True, cell=kind).double()
    x, times, mask = series()
    y, last = rnn(x, times, mask)
    expected = one_by_one(rnn.cells[0], x, times, mask)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(last[0], y[:, -1])
    parameters = list(rnn.parameters())
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), parameters, materialize_grads=True, allow_unused=True),
        torch.autograd.grad(expected.square().sum(), parameters, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_gradients_of_a_long_series_equal_those_of_the_cells():
    rnn = DampedRNN(2, 3, SCALES, masked=True, cell=plain).double()
    x, times, mask = series(2, 75)
    parameters = list(rnn.parameters())
    outputs = rnn(x, times, mask)[0], one_by_one(rnn.cells[0], x, times, mask)
    ours, theirs = (torch.autograd.grad(out.square().sum(), parameters) for out in outputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_equals_a_solve_with_jumps():
    rnn = DampedRNN(2, 5, SCALES, cell=plain).double()
    (cell,) = rnn.cells
    x, times, _ = series()
    func = DampedODEFunc(cell.field, cell.damping, cell.rho)
    jumps = Jumps(times, lambda j, h: cell.update(x[torch.arange(len(h)), j], h))
    h0 = torch.zeros(3, 5, dtype=torch.float64)
    states = solve(func, h0, times, integrator=ExponentialEuler(), jumps=jumps).x.transpose(0, 1)
    y, _ = rnn(x, times)
    torch.testing.assert_close(y, states, rtol=1e-12, atol=1e-12)
    parameters = list(rnn.parameters())
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), parameters),
        torch.autograd.grad(states.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_leaky_integrator_in_closed_form_however_the_gap_is_cut():
    cell = plain(2, 6, False).double()
    h, lam = torch.randn(1, 6, dtype=torch.float64), cell.damping(0.0, torch.zeros(1, dtype=torch.float64))
    for parts in (1, 2, 7, 100):
        cuts = torch.rand(parts, dtype=torch.float64)
        cuts = 13.7 * cuts / cuts.sum()
        state = h
        for cut in cuts:
            state = cell.decay(state, cut)
        exact = cell.field.value + torch.exp(-lam * 13.7) * (h - cell.field.value)
        torch.testing.assert_close(state, exact, rtol=0, atol=1e-12)


@KINDS
def test_no_output_depends_on_padding_batch_or_cuts(kind):
    rnn = DampedRNN(2, 5, SCALES, masked=True, cell=kind).double()
    x, times, mask = series()
    mask[:, 0] = True
    alone, last = rnn(x[1:2, :6], times[1:2, :6], mask[1:2, :6])
    x, times = x.clone(), times.clone()
    x[1, 6:], times[1, 6:] = torch.nan, torch.nan
    y, states = rnn(x, times, mask)
    torch.testing.assert_close(y[1, :6], alone[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states[:, 1], last[:, 0], rtol=1e-12, atol=1e-12)
    assert (y[1, 6:] == 0).all()
    kept = [0, 2, 5]
    mask[0, [1, 3, 4]] = False  # steps that only cut the gaps
    mask[0, kept] = True
    cut, whole = rnn(x[:1, :6], times[:1, :6], mask[:1, :6]), rnn(x[:1, kept], times[:1, kept], mask[:1, kept])
    torch.testing.assert_close(cut[0][:, kept], whole[0], rtol=1e-12, atol=1e-12)


@KINDS
@pytest.mark.parametrize("layers", [1, 2])
def test_states_at_asked_times_are_those_of_steps_without_an_observation(kind, layers):
    rnn = DampedRNN(2, 5, SCALES, layers, masked=True, cell=kind).double()
    x, times, mask = series()
    mask[:, 4:6] = False
    times[:, 8] = times[:, 7]
    y, _ = rnn(x, times, mask)
    query = torch.stack((times[:, 3], times[:, 4], times[:, 5], times[:, 8], times[:, 8] + 2), 1)
    states = rnn.states_at(query, x, times, mask)
    torch.testing.assert_close(states[:, :4], y[:, [3, 4, 5, 8]], rtol=1e-12, atol=1e-12)
    later = torch.cat((times, query[:, 4:]), 1)
    padded, unseen = torch.cat((x, x[:, :1]), 1), torch.cat((mask, torch.zeros_like(mask[:, :1])), 1)
    torch.testing.assert_close(states[:, 4], rnn(padded, later, unseen)[0][:, -1], rtol=1e-12, atol=1e-12)


def test_before_an_observation_the_state_decays_from_h0():
    rnn = DampedRNN(2, 5, SCALES).double()
    x, times, mask = series()
    mask[:, :3] = False
    h0 = torch.randn(1, 3, 5, dtype=torch.float64)
    query = times[:, 1:2] + 0.01
    states = rnn.states_at(query, x, times, mask.any(2), h0)
    lam = rnn.cells[0].damping(0.0, x)
    torch.testing.assert_close(
        states, torch.exp(-lam * (query - times[:, :1]))[:, :, None].squeeze(2)[:, None] * h0[0][:, None]
    )


def test_gradients_reach_values_times_and_h0():
    rnn = DampedRNN(2, 3, SCALES, cell=plain).double()
    x, times, _ = series(2, 4)
    h0 = torch.randn(1, 2, 3, dtype=torch.float64)
    inputs = tuple(value.requires_grad_() for value in (x, times, h0))
    assert torch.autograd.gradcheck(lambda x, times, h0: rnn(x, times, None, h0)[0], inputs)


def test_relaxing_gru_derivative_and_refusal_of_the_second():
    shapes = ((4, 3, 6), (4, 3, 2), (2,), (6, 2), (6,), (3, 2))
    inputs, decay, rest, weight, bias, h0 = (
        torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    observed = torch.rand(4, 3) < 0.6
    arguments = (inputs, decay, observed, rest, weight, bias, h0)
    assert torch.autograd.gradcheck(relaxing_gru, arguments)
    (grad,) = torch.autograd.grad(relaxing_gru(*arguments)[0].square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_without_gaps_it_is_torchs_gru():
    ours, theirs = DampedRNN(2, 5, SCALES, 2, bidirectional=True), nn.GRU(2, 5, 2, batch_first=True, bidirectional=True)
    for n, cell in enumerate(ours.cells):
        suffix = f"l{n // 2}{'_reverse' * (n % 2)}"
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell.update, name).data.copy_(getattr(theirs, f"{name}_{suffix}"))
    x = torch.randn(4, 7, 2)
    (y, last), (expected, state) = ours(x, torch.zeros(7)), theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, state)
    lengths = torch.tensor([3, 7, 1, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    (y, last), (expected, state) = ours(packed, torch.zeros(7)), theirs(packed)
    torch.testing.assert_close(pad_packed_sequence(y)[0], pad_packed_sequence(expected)[0])
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("kind", [plain, input_gated])
def test_against_time_is_the_turned_series(kind):
    rnn = DampedRNN(2, 5, SCALES, bidirectional=True, masked=True, cell=kind).double()
    x, times, mask = series()
    y, last = rnn(x, times, mask)
    single = DampedRNN(2, 5, SCALES, masked=True, cell=kind).double()
    single.cells[0].load_state_dict(rnn.cells[1].state_dict())
    turned, state = single(x.flip(1), -times.flip(1), mask.flip(1))
    torch.testing.assert_close(y[:, :, 5:], turned.flip(1))
    torch.testing.assert_close(last[1], state[0])


def test_time_first_layout_and_packing_with_times():
    first, second = DampedRNN(2, 5, SCALES, batch_first=True), DampedRNN(2, 5, SCALES, batch_first=False)
    second.load_state_dict(first.state_dict())
    x, times, mask = series(dtype=torch.float32)
    lengths = torch.tensor([9, 4, 6])
    y, last = first(x, times, mask.any(2))
    turned, state = second(x.transpose(0, 1), times.t(), mask.any(2).t())
    torch.testing.assert_close(turned.transpose(0, 1), y)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    padded = torch.where(torch.arange(9) < lengths[:, None], times, torch.nan)
    out, last = first(packed, times, mask.any(2))
    turned, state = second(
        pack_padded_sequence(x.transpose(0, 1), lengths, enforce_sorted=False), times.t(), mask.any(2).t()
    )
    expected, state_of_padded = first(x, padded, mask.any(2))
    torch.testing.assert_close(pad_packed_sequence(out, batch_first=True)[0], expected)
    torch.testing.assert_close(pad_packed_sequence(turned, batch_first=True)[0], expected)
    torch.testing.assert_close(last, state_of_padded)
    torch.testing.assert_close(state, state_of_padded)


def test_time_scales_are_log_spaced_from_fast_to_slow():
    lam = learned_time_scales((0.5, 50.0), 3)(0.0, torch.zeros(1))
    torch.testing.assert_close(1 / lam, torch.tensor([0.5, 5.0, 50.0]))
    lam = state_gated_time_scales((0.5, 50.0), 3)(0.0, torch.randn(2, 3))
    torch.testing.assert_close(1 / lam, torch.tensor([0.5, 5.0, 50.0]).expand(2, 3))
    lam = InputGated(2, 3, (0.5, 50.0))(torch.randn(4, 2))
    torch.testing.assert_close(1 / lam, torch.tensor([0.5, 5.0, 50.0]).expand(4, 3))


@pytest.mark.parametrize("dt", [0.0, torch.tensor(0.0), torch.zeros(3)])
def test_a_cell_over_no_time_is_its_update(dt):
    cell = plain(2, 5, False)
    x, h = torch.randn(3, 2), torch.randn(3, 5)
    torch.testing.assert_close(cell(x, h, dt), cell.update(x, h), rtol=1e-6, atol=1e-6)


@KINDS
def test_a_cell_with_times_of_each_sample_and_a_missing_observation(kind):
    cell = kind(2, 5, True).double()
    x, h = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    dt, mask = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[True, False], [False, False], [True, True]])
    x[~mask] = torch.nan
    last = torch.randn(3, 4, dtype=torch.float64)
    after = cell(x, h, dt, mask, last)
    for n in range(3):
        alone = cell(x[n : n + 1], h[n : n + 1], dt[n].item(), mask[n : n + 1], last[n : n + 1])
        torch.testing.assert_close(after[n], alone[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(after[1], cell.decay(h, dt, last)[1])


def test_dropout_acts_between_layers():
    rnn = DampedRNN(2, 5, SCALES, 2, dropout=0.5)
    x, times, _ = series(dtype=torch.float32)
    assert not torch.equal(rnn(x, times)[0], rnn(x, times)[0])
    rnn.eval()
    assert torch.equal(rnn(x, times)[0], rnn(x, times)[0])


X, TIMES, MASK = torch.ones(2, 3, 2), torch.tensor([0.0, 1.0, 2.0]), torch.ones(2, 3, 2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"times": torch.tensor([0.0, 2.0, 1.0])}, ValueError, "must not decrease"),
        ({"times": torch.tensor([0.0, torch.nan, 1.0])}, ValueError, "NaN only at the end"),
        ({"times": torch.tensor([0.0, 1.0, torch.inf])}, ValueError, "finite"),
        ({"times": torch.ones(2, 4)}, ValueError, "one time per step"),
        ({"times": torch.ones(3, dtype=torch.bool)}, TypeError, "real numbers"),
        ({"times": [0.0, 1.0, 2.0]}, TypeError, "torch.tensor"),
        ({"mask": torch.ones(2, 3, 4)}, ValueError, "mask must be"),
        ({"mask": torch.full((2, 3, 2), 0.5)}, ValueError, "got 0.5"),
        ({"x": torch.full((2, 3, 2), torch.nan)}, ValueError, "observed value must be finite"),
        ({"x": torch.full((2, 3, 2), torch.inf), "mask": None}, ValueError, "observed value must be finite"),
        ({"x": torch.ones(2, 3, 5)}, ValueError, "input_size is 2"),
        ({"x": torch.ones(3, 2)}, ValueError, "single sequence"),
        ({"x": torch.ones(2, 3, 2).long()}, TypeError, "x.float"),
        ({"h0": torch.ones(2, 5)}, ValueError, "h0 must be"),
    ],
)
def test_bad_input(change, error, words):
    rnn = DampedRNN(2, 5, SCALES, masked=True)
    arguments = {"x": X, "times": TIMES, "mask": MASK, "h0": None} | change
    with pytest.raises(error, match=words):
        rnn(**arguments)


def test_a_mask_per_value_needs_a_layer_that_reads_it():
    with pytest.raises(ValueError, match="masked=True"):
        DampedRNN(2, 5, SCALES)(X, TIMES, MASK)


@pytest.mark.parametrize("query", [torch.tensor([[-1.0], [1.0]]), torch.tensor([[torch.nan], [1.0]])])
def test_bad_query(query):
    with pytest.raises(ValueError, match="not before the first time"):
        DampedRNN(2, 5, SCALES).states_at(query, X, TIMES)


def test_query_errors_of_shape_and_direction():
    with pytest.raises(ValueError, match=r"\(N, Q\)"):
        DampedRNN(2, 5, SCALES).states_at(TIMES, X, TIMES)
    with pytest.raises(ValueError, match="bidirectional"):
        DampedRNN(2, 5, SCALES, bidirectional=True).states_at(torch.ones(2, 1), X, TIMES)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ((2.0, 1.0), "shortest, longest"),
        ((0.0, 1.0), "above 0"),
        ((1.0, 2.0, 3.0), "3 numbers"),
        ((1e-40, 1.0), "unit"),
    ],
)
def test_bad_time_scales(scales, words):
    with pytest.raises(ValueError, match=words):
        DampedCell(2, 5, scales)


@pytest.mark.parametrize(
    ("dt", "words"),
    [
        (-1.0, "at least 0"),
        (torch.tensor([0.0, -1.0]), "at least 0"),
        (torch.tensor([0.0, torch.nan]), "finite"),
        (torch.ones(3), "got shape"),
    ],
)
def test_bad_gaps(dt, words):
    with pytest.raises(ValueError, match=words):
        DampedCell(2, 5, SCALES)(torch.ones(2, 2), None, dt)
