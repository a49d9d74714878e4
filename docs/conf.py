from importlib.metadata import version as installed

project = "dampode"
author = "the dampode authors"
version = release = installed("dampode")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "dampode"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
default_role = "code"
nitpicky = False


def escape_math(app, what, name, obj, options, lines):
    """Docstrings write (N, *S) and |z| < 1 plainly; reStructuredText would read markup there."""
    lines[:] = [line.replace("*", r"\*").replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", escape_math, priority=100)  # before napoleon
