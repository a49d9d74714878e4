"""The gain of an ensemble over its members, Sec. 4.6, Tables 6 and 8, Figs. 3, 7 and 8."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dampode.robustness.report import Report
from dampode.robustness.report_format import OUTCOMES
from dampode.robustness.results import all_passed

__all__ = ["EnsembleGain", "GainRow", "ensemble_gain"]


@dataclass(frozen=True)
class GainRow:
    """Accuracies in [0, 1] of M members and of their ensemble, on clean, noisy or attacked images.

    Args:
        name: "clean", "noise", or an attack and its radius.
        members: accuracy of each member, (M,). Under an attack, each member meets the images that attack it.
        ensemble: accuracy of the ensemble. Under an attack, it meets the images that attack it.
        gain: ensemble − mean of members, as in Figs. 3, 7 and 8.
        standard_error: standard error of the gain over the images. It does not cover the spread between seeds.
    """

    name: str
    members: tuple[float, ...]
    ensemble: float
    gain: float
    standard_error: float


@dataclass(frozen=True)
class EnsembleGain:
    """The gain of an ensemble on clean, noisy and attacked images.

    Args:
        n: number of images.
        passed: outcome of the sanity checks of all reports: True, False, or None if a required check was not made.
            Unless it is True, a gain may be an effect of gradient masking.
        rows: clean images, noise if all reports have it, and each attack and radius that all reports have.
    """

    n: int
    passed: bool | None
    rows: tuple[GainRow, ...]

    def markdown(self) -> str:
        """The rows as a table in %."""
        lines = []
        if not self.passed:
            lines += [f"**The sanity checks of all reports behind this table together: {OUTCOMES[self.passed]}.**", ""]
        lines += ["| images | mean single model | ensemble | gain | standard error |", "|---|---|---|---|---|"]
        for row in self.rows:
            values = row.ensemble - row.gain, row.ensemble, row.gain, row.standard_error
            lines.append(f"| {row.name} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All numbers, accuracies in [0, 1]."""
        return json.dumps(asdict(self), allow_nan=False)


def ensemble_gain(members: Sequence[Report], ensemble: Report) -> EnsembleGain:
    """Compare the report of an ensemble with those of its members, image by image.

    Each network is measured on the images that attack it. `Transfer` measures what the images of one network do to
    another. The row "noise" is the paper's: the mean over severities, then over the noises.

    Args:
        members: the report that `evaluate` gives for each member, on the same images with the same seed.
        ensemble: the report of their `Ensemble`, on the same images with the same seed.

    Returns:
        The gains.

    Raises:
        ValueError: there are no members, the reports differ in images, noises, severities or seed, or attacks of one
            name differ in their settings.

    Source: Yang et al. 2020, Sec. 4.6 and Appendix C.
    """
    reports = [*members, ensemble]
    if not members:
        raise ValueError("a gain needs the report of at least one member, got none")
    for what, values in (
        ("number of images", {report.n for report in reports}),
        ("images", {report.settings["images"] for report in reports}),
        ("noise", {(report.settings["noise"], *report.names("noise")) for report in reports}),
        ("severities", {tuple(report.strengths("noise")) for report in reports}),
        ("seed", {report.settings["seed"] for report in reports}),
    ):
        if len(values) > 1:
            raise ValueError(f"reports must be of the same {what}, got {sorted(values)}; measure them in the same way")
    rows = [_row("clean", [report.column("clean", 0.0).correct.double() for report in reports])]
    if ensemble.names("noise"):
        rows.append(_row("noise", [_noise(report) for report in reports]))
    for column in ensemble.columns:
        of_members = [c for report in members for c in report.columns if c.key == column.key]
        if column.group == "attack" and len(of_members) == len(members):
            settings = {c.settings for c in (*of_members, column)}
            if len(settings) > 1:
                raise ValueError(f"an attack must have the same settings, got {column.name!r} as {sorted(settings)}")
            name = f"{column.name} {column.radius}"
            rows.append(_row(name, [c.correct.double() for c in (*of_members, column)]))
    return EnsembleGain(ensemble.n, all_passed(report.passed for report in reports), tuple(rows))


def _noise(report: Report) -> Tensor:
    """The share of a report's noises and severities under which each image is classified correctly, (N,)."""
    return torch.stack([c.correct.double() for c in report.columns if c.group == "noise"]).mean(0)


def _row(name: str, correct: Sequence[Tensor]) -> GainRow:
    """A row from the share of correct classifications of each image, (N,), for the members, then the ensemble."""
    *members, ensemble = correct
    gain = ensemble - torch.stack(members).mean(0)
    return GainRow(
        name,
        tuple(member.mean().item() for member in members),
        ensemble.mean().item(),
        gain.mean().item(),
        gain.std(correction=0).item() / math.sqrt(len(gain)),
    )
