"""Shared by the tests: references, trained networks, the folder of the project."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
