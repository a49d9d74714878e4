"""Formulas as MathML, which browsers render by themselves: no script, no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

__all__ = ["setup"]

TAG = re.compile(r"\\tag\{([^}]*)\}")
UPRIGHT = re.compile(r"\\mathrm\{(\w)\}")


def mathml(latex: str, display: str = "inline") -> str:
    """The formula in MathML. MathML sets a single letter upright as text only."""
    return convert(UPRIGHT.sub(r"\\text{\1}", latex), display=display)


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula inside a sentence."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    r"""A formula on a line of its own, with its number from \tag on the right."""
    latex = node.astext()
    tag = TAG.search(latex)
    number = f'<span class="formula-number">({tag[1]})</span>' if tag else ""
    formula = mathml(TAG.sub("", latex), "block")
    translator.body.append(f'<div class="formula">{formula}{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer as "mathml"."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
