"""docs/equations.md is true: every equation of the paper is there, and every place it names exists."""

import ast
import re

import pytest

from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "equations.md").read_text()
PLACE = r"`([\w/]+\.py):(\w+)`"
ROWS = {int(n): line for line in PAGE.splitlines() for n in re.findall(r"^\| (\d+) \|", line)}


def test_every_equation_has_a_row():
    assert sorted(ROWS) == list(range(1, 22))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_every_equation_has_a_place(number):
    assert re.search(PLACE, ROWS[number])


@pytest.mark.parametrize(("path", "symbol"), sorted(set(re.findall(PLACE, PAGE))))
def test_every_place_exists(path, symbol):
    tree = ast.parse((ROOT / path).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert symbol in names, f"{path} has no {symbol}"


@pytest.mark.parametrize("number", [4, 8, 9, 12, 13, 14, 15, 18, 19, 20, 21])
def test_the_code_names_its_equation(number):
    for path, symbol in re.findall(r"`(dampode/[\w/]+\.py):(\w+)`", ROWS[number]):
        tree = ast.parse((ROOT / path).read_text())
        (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == symbol)
        doc = ast.get_docstring(node) or ""
        numbers = {int(n) for part in re.findall(r"Eqs?\. ([\d, and-]+)", doc) for n in re.findall(r"\d+", part)}
        spans = [range(int(a), int(b) + 1) for a, b in re.findall(r"Eqs\. (\d+)-(\d+)", doc)]
        allowed_without = symbol in ("one_plus",)  # the weight of Eq. 14 stands above it in the text
        assert number in numbers or any(number in span for span in spans) or allowed_without, (path, symbol)


def test_every_table_and_figure_has_a_place():
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (Tables?|Figures?) \d", line)]
    for word, count in (("Table", 14), ("Figure", 8)):
        numbers = [
            int(n) for line in rows if line.startswith(f"| {word}") for n in re.findall(r"\d+", line.split("|")[1])
        ]
        assert sorted(numbers) == list(range(1, count + 1))
    assert all(re.search(PLACE, line) for line in rows)
