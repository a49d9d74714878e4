import sys
from importlib.metadata import version as installed
from pathlib import Path

DOCS = Path(__file__).parent
sys.path += [str(DOCS), str(DOCS / "_extensions")]
import figures  # noqa: E402

project = "dampode"
author = "the dampode authors"
version = release = installed("dampode")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "dampode"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
exclude_patterns = ["_build"]
add_module_names = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
default_role = "code"
nitpicky = False
linkcheck_allowed_redirects = {r"https://doi\.org/.*": ".*"}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"(cifar_train|attack_with_foolbox)\.py$",
    "within_subsection_order": "gallery_order.key",
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "parallel": 2,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "show_signature": False,
    "capture_repr": (),
    "remove_config_comments": True,
    "download_all_examples": False,
}


def escape_math(app, what, name, obj, options, lines):
    """Docstrings write (N, *S) and |z| < 1 plainly; reStructuredText would read markup there."""
    lines[:] = [line.replace("*", r"\*").replace("|", r"\|") for line in lines]


def setup(app):
    figures.draw(DOCS / "_static" / "drawn")
    app.connect("autodoc-process-docstring", escape_math, priority=100)  # before napoleon
