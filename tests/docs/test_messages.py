"""The page "My solve fails" quotes messages that exist, and messages name pages that exist."""

import ast
import re

from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "my_solve_fails.md").read_text(encoding="utf-8")
QUOTED = [phrase.replace("\\|", "|") for phrase in re.findall(r'^\| "(.*?)" \|', PAGE, re.MULTILINE)]
PAGES = (ROOT / "docs").rglob("*.md")
TITLES = {page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in PAGES}


def texts():
    """The strings in the code of the package, without docstrings; a placeholder of an f-string ends a string."""
    for path in sorted((ROOT / "dampode").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
                yield node.value


TEXTS = list(texts())


def test_every_quoted_message_exists():
    assert len(QUOTED) > 15
    assert [phrase for phrase in QUOTED if not any(phrase in text for text in TEXTS)] == []


def test_every_named_page_exists():
    named = {title for text in TEXTS for title in re.findall(r'see "(.*?)" in the documentation', text)}
    assert len(named) >= 3
    assert named <= TITLES
