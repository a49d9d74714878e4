"""Shares of blocks, the depth they make, and the accuracy without blocks."""

import pytest
import torch
from torch import nn

from dampode import models
from dampode.models.preresnet import branch_of, layers


def images(n=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 3


def network(builder=models.resnet, depth=20, **settings):
    torch.manual_seed(0)
    return builder(depth, 3, width=4, **settings).eval()


def last_convolution(layer):
    return [module for module in layer.f.modules() if isinstance(module, nn.Conv2d)][-1]


def test_a_network_of_one_block_per_stage_has_its_own_depth():
    assert models.effective_depth(network(depth=8), images()[0]) == pytest.approx(8)


def test_blocks_that_add_nothing_are_not_counted():
    model = network()
    blocks = [layer for _, _, index, layer in layers(models.fold(model)) if index > 0]
    plain = models.fold(model)
    for _, _, index, layer in layers(plain):
        if index > 0:
            nn.init.zeros_(last_convolution(layer).weight)
    assert len(blocks) == 6
    assert models.effective_depth(plain, images()[0]) == pytest.approx(8)
    assert [p.tolist() for p in models.block_shares(plain, images()[0])] == [[1.0, 0.0, 0.0]] * 3
    assert 8 < models.effective_depth(model, images()[0]) < 20


def test_equal_blocks_give_the_full_depth():
    """In stage 1 every block's branch is scaled until its output varies as much as the entry's."""
    plain = models.fold(network(depth=14))
    x = images()[0].double()
    plain = plain.double()
    stages = list(plain.stages)
    for stage in stages:
        p = models.block_shares(plain, x)[stages.index(stage)]
        with torch.no_grad():
            last_convolution(stage[1]).weight.mul_((p[0] / p[1]).sqrt())
    assert models.effective_depth(plain, x) == pytest.approx(14, rel=1e-9)


def test_a_folded_network_is_as_deep_as_the_damped_one():
    model = network(models.lambda_in_resnet, low=0.5, high=3.0).double()
    x = images()[0].double()
    for share, folded in zip(models.block_shares(model, x), models.block_shares(models.fold(model), x), strict=True):
        torch.testing.assert_close(share, folded)
        assert share.sum().item() == pytest.approx(1)


def test_strong_damping_makes_a_network_shallow():
    depths = [
        models.effective_depth(network(models.in_resnet, 56, low=lam, high=lam), images()[0]) for lam in (0.01, 0.9)
    ]
    assert depths[1] < 15 < depths[0]


def test_a_bottleneck_counts_three_convolutions():
    model = models.resnet(11, 3, width=4).eval()
    assert models.effective_depth(model, images()[0]) == pytest.approx(11)


def test_the_accuracy_without_blocks_is_that_of_the_network_without_them():
    model = network(models.in_resnet).eval()
    x, _ = images(64)
    y = model(x).argmax(1)  # accuracy 1 with all blocks
    found = models.accuracy_without_blocks(model, x, y)
    damped = [(name, layer) for name, _, index, layer in layers(model) if index > 0]
    assert [each.name for each in found] == [name for name, _ in damped]
    for position, each in enumerate(found):
        for measured, silenced in ((each.alone, damped[position : position + 1]), (each.later, damped[position:])):
            without = network(models.in_resnet)
            without.load_state_dict(model.state_dict())
            for name, _ in silenced:
                nn.init.zeros_(branch_of(without.get_submodule(name), name)[-1].weight)
            assert measured == pytest.approx((without(x).argmax(1) == y).double().mean().item())
    assert found[-1].alone == found[-1].later


def test_one_image_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        models.effective_depth(network(), images()[0][:1])
