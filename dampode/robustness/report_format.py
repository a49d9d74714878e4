"""A report as Markdown and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dampode._files import write_atomically
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.noise.corruptions import CORRUPTIONS
from dampode.robustness.norms import Norm
from dampode.robustness.results import MEASURED, Column, SanityCheck, format_eps, pack_flags, unpack_flags

if TYPE_CHECKING:
    from dampode.robustness.report import Report

__all__ = ["OUTCOMES", "WARNINGS", "markdown", "parse_json", "save", "to_json"]

FORMAT = 1
OUTCOMES: Mapping[bool | None, str] = {True: "passed", False: "failed", None: "not checked"}
"""The outcome of one sanity check, or of all, in a word or two."""
WARNINGS: Mapping[bool | None, str] = {
    True: "",
    False: "**A sanity check failed (below): these accuracies do not measure robustness.**",
    None: "**A required sanity check was not made (below): these accuracies may be an effect of gradient masking.**",
}
"""What stands above a report, by the outcome of its sanity checks."""


def markdown(report: "Report") -> str:
    """The report as Markdown: noise, attacks, sanity checks, settings. Accuracies are in %."""
    lines = [f"{report.n} images, accuracy in %, clean {100 * report.clean:.1f}", ""]
    if WARNINGS[report.passed]:
        lines += [WARNINGS[report.passed], ""]
    measured = {(c.name, c.strength): _percent(c.accuracy) for c in report.columns if c.group in MEASURED}
    lines += _noise_table(report, measured)
    for norm in report.norms:
        lines += _attack_table(report, measured, norm)
    rows = [[check.name, _outcome(check), check.detail] for check in report.checks]
    lines += _table(["sanity check", "outcome", "numbers"], rows)
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in report.settings.items())]) + "\n"


def to_json(report: "Report") -> str:
    """The whole report as JSON."""
    content = {
        "format": FORMAT,
        "n": report.n,
        "settings": dict(report.settings),
        "passed": report.passed,
        "checks": [asdict(check) for check in report.checks],
        "columns": [
            {
                "group": c.group,
                "name": c.name,
                "settings": c.settings,
                "traits": None if c.traits is None else asdict(c.traits),
                "strength": c.strength,
                "overshoot": c.overshoot,
                "accuracy": c.accuracy,
                "images": len(c.correct),
                "correct": pack_flags(c.correct),
            }
            for c in report.columns
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def parse_json(
    text: str,
) -> tuple[int, tuple[Column, ...], tuple[SanityCheck, ...], dict[str, str], bool | None]:
    """The number of images, columns, checks, settings and outcome of a report's JSON.

    Raises:
        ValueError, KeyError, TypeError: the text is not of this format, or an accuracy differs from that of its flags.
    """
    content: dict[str, Any] = json.loads(text)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, not {FORMAT}")
    columns = tuple(_column(values) for values in content["columns"])
    checks = tuple(SanityCheck(**values) for values in content["checks"])
    return content["n"], columns, checks, content["settings"], content["passed"]


def save(report: "Report", folder: Path) -> None:
    """Write report.json and report.md into a folder."""
    content, table = (to_json(report) + "\n").encode(), markdown(report).encode()
    write_atomically(folder / "report.json", lambda file: file.write(content))
    write_atomically(folder / "report.md", lambda file: file.write(table))


def _column(values: Mapping[str, Any]) -> Column:
    """A column from its JSON values."""
    column = Column(
        group=values["group"],
        name=values["name"],
        strength=values["strength"],
        correct=unpack_flags(values["correct"], values["images"]),
        overshoot=values["overshoot"],
        settings=values["settings"],
        traits=None if values["traits"] is None else AttackTraits(**values["traits"]),
    )
    if abs(values["accuracy"] - column.accuracy) > 1e-9:
        raise ValueError(f"accuracy {values['accuracy']} of {column.name!r}, {column.accuracy} by its flags")
    return column


def _noise_table(report: "Report", measured: Mapping[tuple[str, float], str]) -> list[str]:
    names, severities = report.names("noise"), report.strengths("noise")
    if not names:
        return []
    rows = [
        [name, *(measured.get((name, s), "") for s in severities), _percent(report.noise_score(name))] for name in names
    ]
    means = [_mean_accuracy(report, names, s) for s in severities]
    rows.append(["mean", *means, _percent(report.noise_score())])
    lines = _table(["noise", *(f"{s:g}" for s in severities), "mean"], rows)
    if set(CORRUPTIONS) <= set(names) and severities == [1, 2, 3, 4, 5]:
        error = _percent(report.mean_corruption_error())
        lines += [f"Mean corruption error, over the 15 corruptions and 5 severities: {error} %", ""]
    return lines


def _mean_accuracy(report: "Report", names: list[str], severity: float) -> str:
    """The mean accuracy over the noises at a severity; empty if one of them was not measured there."""
    found = [c.accuracy for c in report.columns if c.group == "noise" and c.strength == severity]
    return _percent(sum(found) / len(found)) if len(found) == len(names) else ""


def _attack_table(report: "Report", measured: Mapping[tuple[str, float], str], norm: Norm) -> list[str]:
    names, radii = report.names("attack", norm), report.strengths("attack", norm)
    rows = [[name, *(measured.get((name, e), "") for e in radii)] for name in names]
    counting = report.radii(norm)
    if counting:
        worst = [_percent(report.robust_accuracy(e, norm)) if e >= counting[0] else "" for e in radii]
        rows.append(["worst case", *worst])
    head = "attack" if norm == "linf" else "attack in L2"
    return _table([head, *(f"ε = {format_eps(e, norm)}" for e in radii)], rows)


def _outcome(check: SanityCheck) -> str:
    """The outcome of a check; bold if the report does not pass because of it."""
    stands_out = check.passed is False or (check.passed is None and check.required)
    return f"**{OUTCOMES[check.passed]}**" if stands_out else OUTCOMES[check.passed]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
