"""The rooms of the package: a file imports from rooms of lower rank, or from its own room."""

import ast
import subprocess
import sys
from pathlib import Path

import dampode

PACKAGE = Path(dampode.__file__).parent
RANKS = {
    "_checks": 0,
    "_files": 0,
    "_identity": 0,
    "functional": 1,
    "weighting": 1,
    "data": 1,
    "robustness": 1,
    "fields": 2,
    "damping": 2,
    "dynamics": 3,
    "integrators": 4,
    "trajectory": 5,
    "block": 6,
    "stability": 7,
    "models": 7,
    "training": 8,
    "plots": 8,
    "cli": 9,
    "__init__": 10,
}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "dampode":
                yield from (f"dampode.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_imports_go_down():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for module in imports(path):
            if module.split(".")[0] == "dampode":
                other = room(module)
                if other != own and RANKS[other] >= RANKS[own]:
                    wrong.append(f"{own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})")
    assert not wrong


def test_every_file_has_a_room_and_is_small():
    for path in PACKAGE.rglob("*.py"):
        assert path.relative_to(PACKAGE).with_suffix("").parts[0] in RANKS
        assert len(path.read_text().splitlines()) <= 400, path


def test_importing_the_package_is_light():
    heavy = "'matplotlib', 'torchvision', 'sklearn', 'tyro'"
    code = f"import sys, dampode; print([m for m in ({heavy},) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
