"""models.fold_batch_norm against the network it came from."""

import pytest
import torch
from torch import nn

from dampode import models
from tests.helpers.authors_networks import randomize_norms

BUILDERS = [models.resnet, models.in_resnet, models.cnn]


def drawn(build, depth=20):
    torch.manual_seed(0)
    model = build(depth, width=4).double()
    randomize_norms(model, (0.1, 3.0))
    return model.eval()


def require_same_function(model, folded):
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    expected, actual = model(x), folded(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))
    (a,), (b,) = (torch.autograd.grad(z[:, 0].sum(), x) for z in (expected, actual))
    torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9 * float(a.abs().max()))
    assert not any(isinstance(m, nn.BatchNorm2d) or m.training for m in folded.modules())


@pytest.mark.parametrize("depth", [20, 29])
@pytest.mark.parametrize("build", BUILDERS)
def test_logits_and_input_gradients_are_the_same(build, depth):
    model = drawn(build, depth)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    require_same_function(model, models.fold_batch_norm(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_it_follows_fold_and_takes_a_resnext():
    model = drawn(models.in_resnet)
    require_same_function(model, models.fold_batch_norm(models.fold(model)))
    torch.manual_seed(1)
    other = models.in_resnext29(width=2).double()
    randomize_norms(other)
    require_same_function(other.eval(), models.fold_batch_norm(other))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_takes_in_the_batch_norm_behind_it(affine, bias):
    net = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5))
    randomize_norms(net.double())
    if not affine:
        net[1].weight = net[1].bias = None
    folded = models.fold_batch_norm(net.eval())
    require_same_function(net, folded)
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(folded[3], models.ChannelAffine)


def test_a_convolution_that_is_used_twice_stays():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(nn.Sequential(shared, nn.BatchNorm2d(3)), nn.Sequential(shared, nn.BatchNorm2d(3))).double()
    randomize_norms(net)
    require_same_function(net.eval(), models.fold_batch_norm(net))


def test_layers_between_are_seen_though_they_occur_twice():
    relu = nn.ReLU()
    net = nn.Sequential(relu, nn.Conv2d(3, 3, 3, padding=1), relu, nn.BatchNorm2d(3)).double()
    randomize_norms(net)
    require_same_function(net.eval(), models.fold_batch_norm(net))


def test_a_layer_that_is_no_plain_convolution_stays():
    weighted = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
    net = nn.Sequential(weighted, nn.BatchNorm2d(3)).double()
    randomize_norms(net)
    require_same_function(net.eval(), models.fold_batch_norm(net))


def test_refusals():
    with pytest.raises(ValueError, match="running statistics, got track_running_stats=False in 1"):
        models.fold_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, track_running_stats=False)))
    with pytest.raises(TypeError, match="fold_batch_norm takes a network"):
        models.fold_batch_norm(torch.relu)
