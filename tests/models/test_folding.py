"""models.fold against the network it came from, and the four arms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dampode import DampedBlock, damping, models
from dampode.integrators import ExponentialEuler, LinearizedEuler
from dampode.models.ablation import frozen, gains, plain
from dampode.models.preresnet import PreResNet
from dampode.weighting import one_plus, unit
from tests.helpers.authors_networks import leaves, randomize_norms

BUILDERS = [models.in_resnet, models.lambda_in_resnet]


def require_same_function(model, folded, images=None):
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64) if images is None else images
    with torch.no_grad():
        expected, actual = model.eval()(x), folded(x)
    assert torch.isfinite(expected).all()
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()


def drawn(build, depth, low, high, seed=0, var=(0.1, 3.0), **arguments):
    torch.manual_seed(seed)
    model = build(depth, width=4, low=low, high=high, **arguments).double()
    randomize_norms(model, var)
    return model


@pytest.mark.parametrize("depth", [110, 164])
@pytest.mark.parametrize("build", BUILDERS)
def test_fold_is_exact_at_full_depth(build, depth):
    model = drawn(build, depth, 0.0, 1.4)
    folded = models.fold(model)
    require_same_function(model, folded)
    assert not any(isinstance(m, DampedBlock) for m in folded.modules())
    assert not folded.training


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    depth=st.sampled_from([8, 11, 14, 20, 29, 32]),
    low=st.floats(0, 3.2),
    damp_first=st.booleans(),
    build=st.sampled_from(BUILDERS),
)
def test_fold_is_exact_for_any_lambda(seed, depth, low, damp_first, build):
    model = drawn(build, depth, low, low + 0.05, seed, damp_first=damp_first)
    require_same_function(model, models.fold(model))


def test_fold_where_the_variance_is_below_eps():
    model = drawn(models.in_resnet, 32, 2.5, 3.2, var=(0.0, 1e-6))
    folded = models.fold(model)
    require_same_function(model, folded)
    assert all((m.running_var >= 0).all() for m in folded.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("integrator", "t_span"),
    [(LinearizedEuler(), (0.0, 0.5)), (ExponentialEuler(), (0.0, 1.0)), (ExponentialEuler(), (1.0, 3.0))],
)
@pytest.mark.parametrize("rho", [unit, one_plus])
def test_fold_takes_any_single_step_and_channelwise_lambda(integrator, t_span, rho):
    def flow(f, channels):
        return DampedBlock(f, damping.Learned(0.0, 0.9, shape=(channels, 1, 1)), rho, integrator, t_span)

    model = PreResNet(26, 10, flow, width=4).double()
    randomize_norms(model)
    require_same_function(model, models.fold(model))


def test_fold_leaves_the_model_as_it_was():
    model = drawn(models.in_resnet, 20, 0.2, 0.9).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = models.fold(model)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in folded.parameters()}
    assert not shared


def test_folded_undamped_network_is_itself():
    model = models.resnet(20, width=4)
    folded = models.fold(model)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(leaves(model), leaves(folded), strict=True))
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), folded(x))


def test_folded_network_sees_the_same_in_training_mode_but_for_eps():
    model = drawn(models.lambda_in_resnet, 32, 0.1, 1.4).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(models.fold(model).train()(x), model(x), rtol=1e-9, atol=1e-9)


def test_fold_refuses_in_words():
    with pytest.raises(ValueError, match="batch norm on the state, got a ResNeXt29"):
        models.fold(models.in_resnext29(width=2))
    with pytest.raises(ValueError, match=r"1 − λ; the λ of stages\.0\.1 is 1"):
        models.fold(models.cnn(14, width=2))
    with pytest.raises(ValueError, match=r"stages\.0\.1 is 1"):
        models.fold(models.in_resnet(14, width=2, low=1.0, high=1.0))
    for build in (models.in_resnet_gating, models.in_resnet_gating_sig):
        with pytest.raises(ValueError, match=r"stages\.0\.1 depends on the state"):
            models.fold(build(14, width=2))
    with pytest.raises(TypeError, match="model must be of type PreResNet, got Linear"):
        models.fold(nn.Linear(2, 2))


def test_fold_refuses_blocks_of_another_form():
    def two_steps(f, channels):
        return DampedBlock(f, integrator=LinearizedEuler(2))

    def positions(f, channels):
        return DampedBlock(f, damping.Constant(torch.rand(8, 8)))

    with pytest.raises(ValueError, match="one step of LinearizedEuler or ExponentialEuler"):
        models.fold(PreResNet(14, 10, two_steps, width=2))
    with pytest.raises(ValueError, match="one λ per block, or one per channel"):
        models.fold(PreResNet(14, 10, positions, width=2))


def test_fold_refuses_branches_without_batch_norm():
    def bare(f, channels):
        return DampedBlock(nn.Sequential(nn.Conv2d(channels, channels, 1)))

    def open_ended(f, channels):
        return DampedBlock(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()))

    with pytest.raises(TypeError, match="must be of type BatchNorm2d, got Conv2d"):
        models.fold(PreResNet(14, 10, bare, width=2))
    with pytest.raises(TypeError, match="must be of type Conv2d, got ReLU"):
        models.fold(PreResNet(14, 10, open_ended, width=2))


@pytest.mark.parametrize(
    "change",
    [
        lambda branch: nn.utils.parametrizations.weight_norm(branch[-1]),
        lambda branch: nn.utils.parametrizations.spectral_norm(branch[-1]),
        lambda branch: nn.utils.parametrizations.weight_norm(branch[0], dim=None),
        lambda branch: nn.utils.spectral_norm(branch[-1]),
    ],
)
def test_fold_refuses_weights_that_are_computed(change):
    model = models.in_resnet(14, width=2)
    change(model.stages[1][1].func.f.f)
    with pytest.raises(ValueError, match=r"that of stages\.1\.1 is computed from others"):
        models.fold(model)


def test_fold_takes_computed_weights_that_it_leaves():
    model = drawn(models.in_resnet, 14, 0.3, 0.9)
    nn.utils.parametrizations.weight_norm(model.stages[1][1].func.f.f[2])
    require_same_function(model, models.fold(model))


def _share_a_branch(stage):
    stage[2].func.f = stage[1].func.f


def _share_a_weight(stage):
    stage[2].func.f.f[-1].weight = stage[1].func.f.f[2].weight


def _share_statistics(stage):
    stage[2].func.f.f[0].running_var = stage[1].func.f.f[3].running_var


@pytest.mark.parametrize("share", [_share_a_branch, _share_a_weight, _share_statistics])
def test_fold_refuses_layers_that_are_shared(share):
    model = models.in_resnet(20, width=2)
    share(model.stages[0])
    for call in (models.fold, models.ablation_networks):
        with pytest.raises(ValueError, match=r"a layer of stages\.0\.[12] is used twice"):
            call(model)


def test_fold_takes_a_lambda_and_inner_layers_that_are_shared():
    model = drawn(models.in_resnet, 20, 0.3, 0.9)
    first, second = (model.stages[0][n].func for n in (1, 2))
    second.damping, second.f.f[3], second.f.f[2] = first.damping, first.f.f[3], first.f.f[2]
    require_same_function(model, models.fold(model))


def test_fold_takes_batch_norm_without_weights_where_none_is_needed():
    model = drawn(models.in_resnet, 20, 0.3, 0.9)
    model.stages[0][2].func.f.f[0] = nn.BatchNorm2d(4, affine=False).double()
    require_same_function(model, models.fold(model))
    negative = drawn(models.in_resnet, 20, 1.3, 1.4)
    negative.stages[0][2].func.f.f[0] = nn.BatchNorm2d(4, affine=False).double()
    with pytest.raises(ValueError, match=r"affine=True in stages\.0\.2"):
        models.fold(negative)


def test_fold_takes_the_network_out_of_a_compiled_one():
    model = drawn(models.in_resnet, 14, 0.3, 0.9)
    require_same_function(model, models.fold(torch.compile(model)))
    require_same_function(model, models.fold(nn.DataParallel(model)))


def test_fold_scales_a_last_bias():
    def flow(f, channels):
        norm = nn.BatchNorm2d(channels)
        return DampedBlock(nn.Sequential(norm, nn.Conv2d(channels, channels, 1)), damping.Learned(0.3, 0.9))

    model = PreResNet(20, 10, flow, width=2).double()
    randomize_norms(model)
    require_same_function(model, models.fold(model))


def test_fold_names_an_overflow():
    model = models.in_resnet(38, width=2, low=0.9999999, high=0.9999999)
    with pytest.raises(ValueError, match=r"range of torch.float32, stages\.0.*use model\.double\(\)"):
        models.fold(model)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_networks_of_an_ablation_share_their_start(build):
    torch.manual_seed(0)
    model = build(32, width=4).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    networks = models.ablation_networks(model)
    assert networks.learned is model
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    logits = {name: network(x) for name, network in networks._asdict().items()}
    for name in ("frozen", "gains"):
        torch.testing.assert_close(logits[name], logits["learned"], rtol=1e-9, atol=1e-9)
    assert (logits["plain"] - logits["learned"]).abs().max() > 1e-3
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    damped = len(models.coefficients(model))
    assert counts == [counts[3] + damped, counts[3], counts[3], counts[3]]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(leaves(model), leaves(networks.plain), strict=True))
    assert models.coefficients(networks.frozen) == models.coefficients(model)


def test_gains_divide_the_effective_learning_rate_by_their_square():
    torch.manual_seed(0)
    model = models.in_resnet(20, width=4, low=0.5, high=0.5).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    still, plain_gains = frozen(model), gains(model)
    x, y = torch.rand(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    for network in (still, plain_gains):
        F.cross_entropy(network(x), y).backward()
    for block, scale in ((1, 0.5), (2, 0.25)):
        a, b = still.stages[1][block].func.f.f[-1].weight, plain_gains.stages[1][block].f[-1].weight
        torch.testing.assert_close(b, a / scale, rtol=1e-9, atol=0)
        torch.testing.assert_close(b.grad, a.grad * scale, rtol=1e-6, atol=1e-12)


def test_frozen_damping_is_not_trained():
    model = models.in_resnet(14, width=4)
    network = frozen(model)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    before = models.coefficients(network)
    F.cross_entropy(network(torch.rand(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    assert models.coefficients(network) == before == models.coefficients(model)


def test_gains_start_with_fresh_statistics_and_the_mode_of_the_model():
    model = drawn(models.in_resnet, 14, 0.2, 0.25)
    network = gains(model)
    assert network.training
    assert all((m.running_mean == 0).all() for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert plain(model).training


def test_frozen_refuses_gates_in_words():
    with pytest.raises(ValueError, match="frozen needs a fixed λ"):
        frozen(models.in_resnet_gating(14, width=2))
