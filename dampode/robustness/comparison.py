"""Several classifiers side by side: the reports of each on the same images, under the same attacks and noise."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from torch import nn

from dampode.robustness.noise.corruptions import CORRUPTIONS
from dampode.robustness.report import Report
from dampode.robustness.report_format import OUTCOMES
from dampode.robustness.results import format_eps

__all__ = ["Comparison", "ComparisonRow", "compare"]

NO_MODELS: Mapping[str, nn.Module] = MappingProxyType({})


@dataclass(frozen=True)
class ComparisonRow:
    """One classifier.

    Args:
        name: its name.
        accuracies: its accuracies in [0, 1], one for each of the comparison's columns.
        passed: outcome of its sanity checks. Unless it is True, its accuracies under attack do not measure robustness.
    """

    name: str
    accuracies: tuple[float, ...]
    passed: bool | None


@dataclass(frozen=True)
class Comparison:
    """The accuracies of several classifiers on the same images.

    Args:
        n: number of images.
        columns: what the accuracies are of.
        rows: one row per classifier.
    """

    n: int
    columns: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]

    def markdown(self) -> str:
        """The rows as a table in %."""
        head = ["network", *self.columns, "sanity checks"]
        lines = [f"{self.n} images, accuracy in %", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in self.rows:
            cells = [f"{100 * accuracy:.1f}" for accuracy in row.accuracies]
            outcome = OUTCOMES[row.passed] if row.passed else f"**{OUTCOMES[row.passed]}**"
            lines.append(f"| {row.name} | " + " | ".join([*cells, outcome]) + " |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All numbers, accuracies in [0, 1]."""
        return json.dumps(asdict(self), allow_nan=False)


def compare(reports: Mapping[str, Report], models: Mapping[str, nn.Module] = NO_MODELS) -> Comparison:
    """Compare the reports of several classifiers: clean, mean over noise, and the worst case at each radius.

    If a report has all 15 corruptions, so must the others, and the mean accuracy over the 15 is another column.

    Args:
        reports: name of a classifier -> its report, measured on the same images, under the same noise, severities,
            attacks and radii. Transferred attacks may differ, since their sources do.
        models: name of a classifier -> the classifier, where you want to be sure that its report is not another's.

    Returns:
        The comparison.

    Raises:
        ValueError: there are no reports, they differ in images, noise, attacks or their settings, or a report is of
            another model than the one of its name.
    """
    if not reports:
        raise ValueError("a comparison needs at least one report, got none")
    for name, model in models.items():
        if name not in reports:
            raise ValueError(f"each model must have the name of a report, {sorted(reports)}, got {name!r}")
        try:
            reports[name].require_same_model(model)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
    first_name, first = next(iter(reports.items()))
    for name, report in reports.items():
        for what, asked, found in (
            ("images", first.settings.get("images"), report.settings.get("images")),
            ("noise, attacks and settings", _measured(first), _measured(report)),
        ):
            if found != asked:
                raise ValueError(
                    f"reports must be of the same {what} to be compared, but {name!r} differs from {first_name!r}: "
                    f"{_difference(asked, found)}; measure them in the same way"
                )
    names = ["clean", *(["noise"] if first.names("noise") else [])]
    names += ["15 corruptions"] if set(CORRUPTIONS) <= set(first.names("noise")) else []
    radii = [(norm, eps) for norm in first.norms for eps in first.radii(norm)]
    names += [f"worst case, ε = {format_eps(eps, norm)}" + (" in L2" if norm == "l2" else "") for norm, eps in radii]
    rows = []
    for name, report in reports.items():
        accuracies = [report.clean, *([report.noise_score()] if report.names("noise") else [])]
        if "15 corruptions" in names:
            accuracies.append(1 - report.mean_corruption_error())
        accuracies += [report.robust_accuracy(eps, norm) for norm, eps in radii]
        rows.append(ComparisonRow(name, tuple(accuracies), report.passed))
    return Comparison(first.n, tuple(names), tuple(rows))


def _measured(report: Report) -> list[tuple[str, float, str]]:
    """Name, strength and settings of everything measured, but for transferred attacks."""
    columns = [c for c in report.columns if c.group in ("noise", "attack")]
    return [(c.name, c.strength, c.settings) for c in columns if c.traits is None or not c.traits.transferred]


def _difference(asked: object, found: object) -> str:
    """The first difference of two lists, or both values."""
    if isinstance(asked, list) and isinstance(found, list):
        missing = [entry for entry in asked if entry not in found] + [entry for entry in found if entry not in asked]
        return f"only one of them has {missing[0]}" if missing else "another order"
    return f"{found} and {asked}"
