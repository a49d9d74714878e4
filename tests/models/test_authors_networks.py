"""The networks against the plain ones of oracles_models: outputs, running statistics and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode import DampedBlock, models
from dampode.damping import Gated
from tests.helpers.authors_networks import PlainPreResNet, PlainResNeXt29, copy_weights, leaves, randomize_norms

CASES = {
    "in-resnet-110": (lambda: models.in_resnet(110, width=4), lambda: PlainPreResNet(18, 4, 10, False, False)),
    "lambda-in-resnet-110": (
        lambda: models.lambda_in_resnet(110, width=4),
        lambda: PlainPreResNet(18, 4, 10, False, True),
    ),
    "in-resnet-164": (lambda: models.in_resnet(164, width=4), lambda: PlainPreResNet(18, 4, 10, True, False)),
    "lambda-in-resnet-164": (
        lambda: models.lambda_in_resnet(164, width=4),
        lambda: PlainPreResNet(18, 4, 10, True, True),
    ),
    "in-resnet-20, full width": (lambda: models.in_resnet(20), lambda: PlainPreResNet(3, 16, 10, False, False)),
    "resnet-20": (lambda: models.resnet(20), lambda: PlainPreResNet(3, 16, 10, False, False)),
    "in-resnet-sig-20": (lambda: models.in_resnet_sig(20), lambda: PlainPreResNet(3, 16, 10, False, False)),
    "resnext-29": (
        lambda: models.resnext29(width=8),
        lambda: PlainResNeXt29(8, 8, 10, False),
    ),
    "in-resnext-29": (lambda: models.in_resnext29(width=8), lambda: PlainResNeXt29(8, 8, 10, False)),
    "lambda-in-resnext-29": (
        lambda: models.lambda_in_resnext29(width=8, cardinality=4),
        lambda: PlainResNeXt29(8, 4, 10, True),
    ),
}


@pytest.fixture(params=CASES)
def pair(request):
    """A network, its plain twin with the same weights, and the twin's λ, in float64."""
    torch.manual_seed(0)
    build, build_plain = CASES[request.param]
    model, plain = build().double(), build_plain().double()
    randomize_norms(model)
    copy_weights(model, plain)
    lams = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in models.coefficients(model)]
    return model, plain, lams


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))


def test_eval_mode(pair):
    model, plain, lams = pair
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        close(model.eval()(x), plain.eval()(x, lams))


def test_training_mode_with_gradients(pair):
    model, plain, lams = pair
    x, y = torch.rand(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 5, 9])
    logits, expected = model.train()(x), plain.train()(x, lams)
    close(logits, expected)
    F.cross_entropy(logits, y).backward()
    F.cross_entropy(expected, y).backward()
    for a, b in zip(leaves(model), leaves(plain), strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8 * (1 + float(q.grad.abs().max())))
        if isinstance(a, nn.BatchNorm2d):
            assert a.num_batches_tracked == 1
            close(a.running_mean, b.running_mean)
            close(a.running_var, b.running_var)
    for block, lam in zip([m for m in model.modules() if isinstance(m, DampedBlock)], lams, strict=True):
        for raw in block.func.damping.parameters():
            slope = lam * (1 - lam) if block.func.damping.act is torch.sigmoid else 1
            torch.testing.assert_close(raw.grad, slope * lam.grad, rtol=1e-6, atol=1e-9)


def test_full_width_110_in_float32():
    torch.manual_seed(0)
    model, plain = models.in_resnet(110), PlainPreResNet(18, 16, 10, False, False)
    copy_weights(model, plain)
    x = torch.rand(2, 3, 32, 32)
    lams = [torch.tensor(v) for v in models.coefficients(model)]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), plain.eval()(x, lams), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [models.in_resnet_gating, models.in_resnet_gating_sig])
def test_gated_networks_start_as_the_plain_one_with_a_lambda_a_channel(build):
    torch.manual_seed(0)
    model, plain = build(20, width=4, low=0.2, high=0.6).double(), PlainPreResNet(3, 4, 10, False, False).double()
    randomize_norms(model)
    copy_weights(model, plain, skip=Gated)
    gates = [m for m in model.modules() if isinstance(m, Gated)]
    lams = [gate.act(gate.gate.bias.detach()).view(-1, 1, 1) for gate in gates]
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        close(model.eval()(x), plain.eval()(x, lams))


@pytest.mark.parametrize(
    ("build", "act"), [(models.in_resnet_gating, F.relu), (models.in_resnet_gating_sig, F.sigmoid)]
)
def test_a_gate_is_a_1x1_convolution_of_the_state(build, act):
    block = build(14, width=4).eval().stages[1][1]
    gate = block.func.damping.gate
    nn.init.normal_(gate.weight)
    x = torch.randn(2, 8, 6, 6)
    lam = act(F.conv2d(x, gate.weight[:, :, None, None], gate.bias))
    torch.testing.assert_close(block(x), (1 - lam) * x + block.func.f.f(x))
