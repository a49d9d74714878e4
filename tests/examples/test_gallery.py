"""The gallery shows every example: each has a place, a title, cells of text, a figure and an assertion."""

import ast
import importlib.util
import re

import pytest

from tests.helpers import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
spec = importlib.util.spec_from_file_location("gallery_order", ROOT / "docs" / "_extensions" / "gallery_order.py")
gallery_order = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery_order)
HIDDEN = re.search(r'"ignore_pattern": r"\((.*)\)\\\.py\$"', (ROOT / "docs" / "conf.py").read_text(encoding="utf-8"))
SHOWN = [script for script in SCRIPTS if script.stem not in HIDDEN[1].split("|")]


def test_every_example_has_a_place():
    assert sorted(gallery_order.ORDER) == [script.stem for script in SHOWN]
    assert len(SHOWN) == len(SCRIPTS) - 2
    assert gallery_order.key("first_damped_layer.py") == 0


@pytest.mark.parametrize("script", SHOWN, ids=lambda script: script.stem)
def test_an_example_shows_and_asserts(script):
    text = script.read_text(encoding="utf-8")
    title, underline, *_ = ast.get_docstring(ast.parse(text)).splitlines()
    assert set(underline) == {"="}
    assert len(underline) >= len(title)
    assert text.count("\n# %%\n") >= 2
    assert ".savefig(" in text or "plots.save(" in text
    assert re.search(r"^\s*assert |assert_close\(", text, re.MULTILINE)
