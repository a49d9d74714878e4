"""Formulas as MathML, which browsers render by themselves: no script, no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

__all__ = ["setup"]

TAG = re.compile(r"\\tag\{([^}]*)\}")


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula inside a sentence."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    r"""A formula on a line of its own, with its number from \tag on the right."""
    latex = node.astext()
    tag = TAG.search(latex)
    number = f'<span class="formula-number">({tag[1]})</span>' if tag else ""
    formula = convert(TAG.sub("", latex), display="block")
    translator.body.append(f'<div class="formula">{formula}{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer as "mathml"."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
