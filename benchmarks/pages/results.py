"""Result files, and the words that pages make of them."""

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.common.record import RESULTS

__all__ = ["exists", "read", "row", "rows"]


def read(name: str) -> Any:
    """The content of benchmarks/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def exists(name: str) -> bool:
    """Whether it has been measured."""
    return (RESULTS / f"{name}.json").exists()


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def rows(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    names = list(head)
    return [row(*names), "|" + "---|" * len(names), *(row(*cells) for cells in body)]
