"""docs/models.md against the networks: every row's flows, parameters and multiply-accumulates are recomputed."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dampode import DampedBlock, models
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "models.md"
ROW = re.compile(r"^\| `(\w+)\((\d*)\)` \|.*\| ([\d,]+) \| ([\d,]+) \| ([\d,.]+) M \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text(encoding="utf-8"))


def macs(model: torch.nn.Module) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one CIFAR image; nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def build(name: str, depth: str) -> torch.nn.Module:
    return getattr(models, name)(*([int(depth)] if depth else []))


@pytest.mark.parametrize(("name", "depth", "damped", "parameters", "millions"), ROWS)
def test_row(name, depth, damped, parameters, millions):
    model = build(name, depth)
    assert f"{sum(isinstance(m, DampedBlock) for m in model.modules()):,}" == damped
    assert f"{sum(p.numel() for p in model.parameters()):,}" == parameters
    assert f"{macs(model) / 1e6:,.2f}" == millions


def test_every_network_has_a_row():
    builders = {name for name in models.__all__ if name.endswith("resnet") or "resnext" in name or "resnet_" in name}
    builders -= {"contractive_resnet"}  # no network of the paper; it has a page of its own
    assert {name for name, *_ in ROWS} == builders | {"cnn"}
    assert len(ROWS) >= 13


def test_the_papers_networks_have_their_known_macs():
    table = {(name, depth): float(millions.replace(",", "")) for name, depth, *_, millions in ROWS}
    for row, expected in ((("in_resnet", "110"), 253.15), (("in_resnet", "164"), 247.65), (("resnext29", ""), 5387)):
        assert table[row] == pytest.approx(expected, rel=1e-4)
