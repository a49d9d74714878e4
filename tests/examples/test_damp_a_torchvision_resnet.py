"""The torchvision example runs, and its claims hold."""

import runpy
import sys

from tests.helpers import ROOT

EXAMPLE = ROOT / "examples" / "damp_a_torchvision_resnet.py"


def test_damp_a_torchvision_resnet(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "bit for bit" in printed
    assert "12 damped blocks, 25,557,044 parameters (25,557,032 undamped)" in printed
