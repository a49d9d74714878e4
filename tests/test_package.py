"""The names of the package, and what importing it costs."""

import importlib
import subprocess
import sys

import pytest

import dampode


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_training_and_plots_load_on_first_use():
    loaded = "print([m in sys.modules for m in ('dampode.training', 'dampode.plots', 'accelerate', 'matplotlib')])"
    assert run(f"import sys, dampode; {loaded}") == "[False, False, False, False]"
    assert run(f"import sys, dampode; dampode.training.fit, dampode.plots.save; {loaded}") == "[True, True, True, True]"
    assert run("from dampode import *; print(training.__name__, plots.__name__)") == "dampode.training dampode.plots"


def test_every_public_name_is_there():
    assert sorted(dir(dampode)) == sorted(dampode.__all__)
    for name in dampode.__all__:
        assert getattr(dampode, name) is not None
    with pytest.raises(AttributeError, match="module 'dampode' has no attribute 'absent'"):
        _ = dampode.absent


@pytest.mark.parametrize("package", ["accelerate", "tqdm"])
def test_a_package_that_is_missing_is_said(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "dampode.training", raising=False)
    with pytest.raises(ImportError, match=rf"training needs {package}: install dampode\[train\]"):
        importlib.import_module("dampode.training")
