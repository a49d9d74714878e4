"""The networks of the rows under both protocols."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.paper.plan.protocols import CODE, TEXT
from benchmarks.paper.plan.rows import ROWS
from dampode import DampedBlock
from tests.paper.toy import ROW, TOY


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def evaluate_branch(block, args):
    block.func.f(0.0, *args)


@pytest.mark.parametrize("row", [ROW, replace(ROWS["lambda_in_resnet-110-frozen"], depth=20)])
def test_the_authors_evaluate_the_lambda_branch_twice(row):
    networks = []
    for protocol in (TEXT, CODE):
        torch.manual_seed(0)
        networks.append(row.build(10, protocol, TOY).double().train())
    twice, code = networks
    for block in twice.modules():
        if isinstance(block, DampedBlock):
            block.register_forward_pre_hook(evaluate_branch)
    for _ in range(3):
        x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
        assert torch.equal(twice(x), code(x))
    for expected, norm in zip(norms(twice), norms(code), strict=True):
        torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-12, atol=1e-15)
    assert {norm.momentum for norm in norms(code)} == {0.1, 0.19}


def test_the_other_networks_evaluate_a_branch_once():
    for name, row in ROWS.items():
        if "lambda" not in name:
            assert {norm.momentum for norm in norms(row.build(10, CODE, TOY))} == {0.1}, name
    assert {norm.momentum for norm in norms(ROW.build(10, TEXT, TOY))} == {0.1}
    resnext = ROWS["lambda_in_resnext29"].build(10, CODE, TOY)
    assert {norm.momentum for norm in norms(resnext)} == {0.1, 0.19}
