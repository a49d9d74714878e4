"""The layout of docs/design.md holds: imports go down, files and functions are small, modules say what they export."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dampode
from tests.helpers import ROOT

PACKAGE = Path(dampode.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TABLE = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE)
RANKS = {
    room.rstrip("/").removesuffix(".py"): int(rank) for rank, rooms in TABLE for room in re.findall("`(.+?)`", rooms)
}
WINGS = ("exponential", "implicit")


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Every module and symbol that a file imports, by its full dotted name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, not relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_lines(path):
    """Name and number of code lines of every function in a file; docstrings, comments and blank lines do not count."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for function in ast.walk(tree(path)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = function.body[0] if ast.get_docstring(function) is not None else None
        skipped = range(docstring.lineno, docstring.end_lineno + 1) if docstring else ()
        body = (lines[n - 1].strip() for n in range(function.lineno, function.end_lineno + 1) if n not in skipped)
        yield function.name, sum(1 for line in body if line and not line.startswith("#"))


def exports(path):
    """The names in a module's __all__, or None where it has none."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [element.value for element in node.value.elts]
    return None


def by_file(paths, root=ROOT):
    return {"argvalues": paths, "ids": [str(path.relative_to(root)) for path in paths]}


def test_the_design_page_lists_every_room():
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert set(RANKS) == rooms


@pytest.mark.parametrize("path", **by_file(FILES, PACKAGE.parent))
def test_imports_go_down(path):
    if path == PACKAGE / "__init__.py":
        return
    own = room(path)
    others = {module.split(".")[1] for module in imports(path) if module.startswith("dampode.")} - {own}
    upward = sorted(other for other in others if RANKS[other] >= RANKS[own])
    assert not upward, f"{own} has rank {RANKS[own]} in docs/design.md and must not import {upward}"


@pytest.mark.parametrize(("wing", "other"), [WINGS, WINGS[::-1]])
def test_the_wings_of_the_integrators_are_apart(wing, other):
    files = sorted((PACKAGE / "integrators" / wing).rglob("*.py"))
    assert files
    assert not [p.name for p in files if any(f"{m}.".startswith(f"dampode.integrators.{other}.") for m in imports(p))]


def test_the_ground_of_the_integrators_does_not_import_the_wings():
    ground = sorted((PACKAGE / "integrators").glob("*.py"))
    wings = tuple(f"dampode.integrators.{wing}." for wing in WINGS)
    importing = [path.name for path in ground if any(f"{module}.".startswith(wings) for module in imports(path))]
    assert importing == ["__init__.py"]


@pytest.mark.parametrize("path", **by_file(FILES, PACKAGE.parent))
def test_files_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert {name: lines for name, lines in code_lines(path) if lines > 60} == {}


@pytest.mark.parametrize("path", **by_file(FILES, PACKAGE.parent))
def test_every_module_says_what_it_exports(path):
    if len(tree(path).body) == 1:
        return  # a docstring alone exports nothing
    names = exports(path)
    assert names is not None, "the module has no __all__"
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", **by_file(BENCHMARKS))
def test_benchmarks_are_a_package(path):
    siblings = {other.stem for other in BENCHMARKS} | {other.name for other in (ROOT / "benchmarks").glob("*/")}
    bare = sorted(
        module
        for module in imports(path)
        if module.split(".")[0] in siblings - {"benchmarks", "__init__", *sys.stdlib_module_names}
    )
    assert not bare, f"import {bare} from benchmarks"
    assert "sys.path" not in path.read_text(encoding="utf-8")


def test_importing_the_package_is_light():
    heavy = (
        "'accelerate', 'matplotlib', 'numba', 'scipy', 'sklearn', 'sympy', 'torch._dynamo', 'torchdiffeq', "
        "'torchvision', 'tyro'"
    )
    code = f"import sys, dampode; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
