"""Sizes, composition and bad input of the paper's networks."""

import pytest
import torch
from torch import nn

from dampode import DampedBlock, Transition, damping, models
from dampode.fields import PreActBasic, PreActBottleneck, ResNeXtBranch
from dampode.weighting import one_plus, unit
from tests.helpers.authors_networks import leaves

PRE_ACTIVATION = [
    models.resnet,
    models.in_resnet,
    models.lambda_in_resnet,
    models.in_resnet_sig,
    models.in_resnet_gating,
    models.in_resnet_gating_sig,
    models.cnn,
]
RESNEXT = [models.resnext29, models.in_resnext29, models.lambda_in_resnext29]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def flows(model: nn.Module) -> list[DampedBlock]:
    return [m for m in model.modules() if isinstance(m, DampedBlock)]


@pytest.mark.parametrize(
    ("build", "depth", "count"),
    [
        (models.resnet, 110, 1_730_618),
        (models.in_resnet, 110, 1_730_669),
        (models.lambda_in_resnet, 110, 1_730_669),
        (models.in_resnet_sig, 110, 1_730_669),
        (models.resnet, 164, 1_703_674),
        (models.in_resnet, 164, 1_703_725),
        (models.lambda_in_resnet, 164, 1_703_725),
    ],
)
def test_parameter_counts_of_the_preactivation_networks(build, depth, count):
    model = build(depth)
    assert parameters(model) == count
    assert len(flows(model)) == len(models.coefficients(model)) == 51


@pytest.mark.parametrize(("classes", "count"), [(10, 34_426_698), (100, 34_518_948)])
def test_parameter_counts_of_resnext(classes, count):
    assert parameters(models.resnext29(classes)) == count


def test_in_resnext_has_six_coefficients():
    model = models.in_resnext29(width=8)
    assert len(models.coefficients(model)) == 6
    assert parameters(model) == parameters(models.resnext29(width=8)) + 6


def test_a_gate_costs_a_matrix_and_a_bias_a_block():
    plain, gated = models.resnet(14, width=4), models.in_resnet_gating(14, width=4)
    assert parameters(gated) - parameters(plain) == sum(c * c + c for c in (4, 8, 16))


@pytest.mark.parametrize("build", PRE_ACTIVATION + RESNEXT)
def test_logits_have_one_column_a_class(build):
    model = build(num_classes=7, width=4) if build in RESNEXT else build(20, 7, width=4)
    logits = model(torch.rand(2, 3, 16, 16))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("build", "kind", "rho"),
    [
        (models.resnet, damping.Constant, unit),
        (models.in_resnet, damping.Learned, unit),
        (models.lambda_in_resnet, damping.Learned, one_plus),
        (models.in_resnet_sig, damping.Learned, unit),
        (models.in_resnet_gating, damping.Gated, unit),
        (models.in_resnet_gating_sig, damping.Gated, unit),
        (models.cnn, damping.Constant, unit),
    ],
)
def test_composition(build, kind, rho):
    blocks = flows(build(14, width=4))
    assert len(blocks) == 3
    assert all(type(b.func.damping) is kind and b.func.rho is rho for b in blocks)


@pytest.mark.parametrize(
    ("build", "depth", "low", "high"),
    [
        (models.in_resnet, 110, 0.2, 0.25),
        (models.lambda_in_resnet, 110, 0.2, 0.25),
        (models.in_resnet, 164, 0.1, 0.2),
        (models.lambda_in_resnet, 164, 0.1, 0.2),
        (models.in_resnet_sig, 110, 0.2, 0.25),
    ],
)
def test_lambda_starts_in_the_papers_range(build, depth, low, high):
    lam = torch.tensor(models.coefficients(build(depth, width=2)))
    assert low - 1e-6 <= lam.min() < lam.max() <= high + 1e-6
    assert lam.max() - lam.min() > 0.7 * (high - low)  # fails by chance once in 10^6


def test_lambda_starts_in_the_range_given():
    lam = models.coefficients(models.in_resnet_sig(20, width=2, low=0.5, high=0.6))
    assert all(0.5 - 1e-6 <= v <= 0.6 + 1e-6 for v in lam)


def test_anchors_are_the_lambda_that_decay_pulls_to():
    for build, chosen, anchor in (
        (models.in_resnet, {}, 0.0),
        (models.in_resnet, {"anchor": 1.0}, 1.0),  # the authors' code
        (models.lambda_in_resnet, {}, 0.0),
        (models.in_resnet_sig, {}, 0.5),
        (models.in_resnet_sig, {"anchor": 0.75}, 0.75),
    ):
        model = build(14, width=2, **chosen)
        for block in flows(model):
            nn.init.zeros_(block.func.damping.raw)
        assert models.coefficients(model) == pytest.approx([anchor] * 3)


def test_a_block_and_every_network_have_one_default_anchor():
    dampings = [DampedBlock(nn.Identity()).func.damping]
    for build in (models.in_resnet, models.lambda_in_resnet):
        dampings += [block.func.damping for block in flows(build(14, width=2))]
    for build in (models.in_resnext29, models.lambda_in_resnext29):
        dampings += [block.func.damping for block in flows(build(width=2))]
    assert {d.anchor for d in dampings} == {0.0}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("build", [models.in_resnet_gating, models.in_resnet_gating_sig])
def test_gated_networks_start_as_in_resnets(build, pooled):
    for block in flows(build(14, width=4, low=0.3, high=0.4, pooled=pooled)):
        channels = block.func.damping.gate.in_features
        lam = block.func.damping(0.0, 100 * torch.randn(2, channels, 4, 4))
        assert lam.shape == ((2, channels, 1, 1) if pooled else (2, channels, 4, 4))
        assert 0.3 - 1e-6 <= lam.min() <= lam.max() <= 0.4 + 1e-6
        assert torch.equal(lam, lam[:1, :, :1, :1].expand_as(lam))


def test_pooled_gate_reads_the_mean_over_positions():
    gate = damping.Gated(3, torch.sigmoid, pooled=True)
    x = torch.randn(2, 3, 5, 4)
    mean = torch.stack([x[n, c].sum() / 20 for n in range(2) for c in range(3)]).view(2, 3)
    expected = torch.sigmoid(mean @ gate.gate.weight.T + gate.gate.bias)
    torch.testing.assert_close(gate(0.0, x), expected.view(2, 3, 1, 1))


def test_first_blocks_are_undamped_unless_asked():
    usual, damped = models.in_resnet(14, width=4), models.in_resnet(14, width=4, damp_first=True)
    assert [type(s[0]) for s in usual.stages] == [Transition] * 3
    assert [type(s[0]) for s in damped.stages] == [DampedBlock, Transition, Transition]
    assert len(models.coefficients(models.in_resnet(164, width=2, damp_first=True))) == 51


def test_cnn_has_no_shortcut():
    model = models.cnn(14, width=4)
    assert not any(isinstance(m, Transition) for m in model.modules())
    with torch.no_grad():
        leaves(model.stages[1])[-1].weight.zero_()  # a shortcut would carry the image past a branch of zeros
    logits = model.eval()(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("depth", "block", "chosen", "n"),
    [
        (20, None, PreActBasic, 3),
        (29, None, PreActBottleneck, 3),
        (110, None, PreActBasic, 18),
        (164, None, PreActBottleneck, 18),
        (170, None, PreActBasic, 28),
        (20, PreActBottleneck, PreActBottleneck, 2),
        (164, PreActBasic, PreActBasic, 27),
    ],
)
def test_depth_picks_the_block(depth, block, chosen, n):
    model = models.resnet(depth, width=1, block=block)
    assert [len(stage) for stage in model.stages] == [n] * 3
    assert isinstance(model.stages[0][1].func.f.f, chosen)


@pytest.mark.parametrize("depth", [8, 11, 20, 29])
def test_depth_counts_the_weighted_layers(depth):
    layers = [m for m in leaves(models.resnet(depth, width=2)) if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = 3 if depth in (11, 29) else 2
    assert len(layers) - shortcuts == depth


@pytest.mark.parametrize(
    ("depth", "block", "message"),
    [
        (3, None, "depth must be 6n [+] 2 or 9n [+] 2 with n >= 1, got 3; the smallest is 8"),
        (3, PreActBottleneck, "depth must be 9n [+] 2 with n >= 1, got 3; the smallest is 11"),
        (2, PreActBasic, "the smallest is 8"),
        (9, None, "the nearest are 8 and 11"),
        (112, None, "the nearest are 110 and 116"),
        (116, PreActBottleneck, "the nearest are 110 and 119"),
        (112, PreActBottleneck, "the nearest are 110 and 119"),
    ],
)
def test_a_depth_that_fits_no_block_names_the_nearest(depth, block, message):
    with pytest.raises(ValueError, match=message):
        models.in_resnet(depth, block=block)


@pytest.mark.parametrize("build", PRE_ACTIVATION)
def test_a_depth_that_is_no_number(build):
    with pytest.raises(TypeError, match="depth must be a positive int, got '110'"):
        build("110")


@pytest.mark.parametrize("build", PRE_ACTIVATION + RESNEXT)
def test_too_few_classes(build):
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        build(num_classes=1)


@pytest.mark.parametrize("model", [models.in_resnet(8, width=2), models.in_resnext29(width=2)])
def test_images_of_another_channel_count(model):
    with pytest.raises(ValueError, match=r"images \(N, 3, H, W\), got shape \(2, 1, 8, 8\)"):
        model(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"low": 0.3}, ValueError, "both low and high"),
        ({"low": 0.3, "high": 0.2}, ValueError, "low must not exceed high"),
        ({"width": 0}, ValueError, "width must be a positive int"),
        ({"in_channels": 1}, ValueError, "one number per channel: in_channels is 1, got 3"),
        ({"block": "basic"}, TypeError, "block must be of type type, got str; pass a class"),
        ({"damp_first": 1}, TypeError, "damp_first must be of type bool"),
    ],
)
def test_arguments_that_do_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        models.in_resnet(14, **arguments)


@pytest.mark.parametrize("bounds", [{"low": 0.0, "high": 0.2}, {"low": 0.2, "high": 1.0}])
@pytest.mark.parametrize("build", [models.in_resnet_sig, models.in_resnet_gating_sig])
def test_sigmoid_ranges_lie_inside_zero_and_one(build, bounds):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        build(8, **bounds)


def test_a_bottleneck_needs_a_multiple_of_four():
    for branch in (PreActBottleneck, ResNeXtBranch):
        with pytest.raises(ValueError, match="multiple of 4, got 6"):
            branch(8, 6)


def test_gray_images():
    model = models.in_resnet(8, in_channels=1, mean=[0.5], std=[0.25], width=2)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_coefficients_refuse_gates_and_channelwise_lambda():
    with pytest.raises(ValueError, match=r"stages\.0\.1 depends on the state"):
        models.coefficients(models.in_resnet_gating(14, width=2))
    block = DampedBlock(nn.Identity(), damping.Learned(shape=(3, 1, 1)))
    with pytest.raises(ValueError, match=r"shape \(3, 1, 1\)"):
        models.coefficients(nn.Sequential(block))


def test_convolutions_start_from_the_papers_distribution():
    model = models.in_resnet(110)
    weight = model.stages[2][0].f[2].weight  # 32 channels to 64
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("build", [models.in_resnet, models.lambda_in_resnet, models.in_resnet_gating_sig])
def test_networks_trace_as_one_graph(build):
    model, x = build(14, width=2), torch.rand(2, 3, 8, 8)
    compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_autocast_keeps_the_state_in_bf16():
    model, seen = models.in_resnet(14, width=4), []
    flows(model)[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.rand(2, 3, 8, 8))
    assert seen == [torch.bfloat16]
    assert torch.isfinite(logits).all()


def test_8_bit_images_are_refused():
    """They would pass for pixels up to 255."""
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        models.resnet(8, width=2)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
