"""What an ensemble gains over its members, Sec. 4.6, Tables 6 and 8, Figs. 3, 7 and 8."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dampode.robustness.report import Report, radius


@dataclass(frozen=True)
class GainRow:
    """Accuracies in [0, 1] of M members and of their ensemble on one kind of images.

    Args:
        name: "clean", "noise", or an attack and its radius.
        members: accuracy of each member; under an attack, on the images that attack this member, (M,).
        ensemble: accuracy of the ensemble; under an attack, on the images that attack the ensemble.
        gain: ensemble − mean of members, what Figs. 3, 7 and 8 show.
        error: standard error of the gain over the images; it says nothing of other seeds.
    """

    name: str
    members: tuple[float, ...]
    ensemble: float
    gain: float
    error: float


@dataclass(frozen=True)
class EnsembleGain:
    """The gain on clean, noisy and attacked images.

    Args:
        n: number of images.
        held: whether every report's laws held; else a gain may be one of gradient masking.
        rows: clean, noise where all reports have it, and each attack and radius that all have.
    """

    n: int
    held: bool
    rows: tuple[GainRow, ...]

    def markdown(self) -> str:
        """A table in %, a row a kind of images."""
        lines = [] if self.held else ["**A law is broken in a report behind this table.**", ""]
        lines += ["| images | mean single model | ensemble | gain | standard error |", "|---|---|---|---|---|"]
        for row in self.rows:
            values = row.ensemble - row.gain, row.ensemble, row.gain, row.error
            lines.append(f"| {row.name} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All numbers, accuracies in [0, 1]."""
        return json.dumps(asdict(self), allow_nan=False)


def ensemble_gain(members: Sequence[Report], ensemble: Report) -> EnsembleGain:
    """Compare the report of an ensemble with those of its members, image by image.

    Each network is attacked by its own gradients, as `evaluate` does. What the images of one do to another is
    measured by `Transfer`. The row "noise" is the paper's: the mean over severities, then over the groups.

    Args:
        members: `evaluate` of each member, on the same images with the same seed.
        ensemble: `evaluate` of their `Ensemble`, likewise.

    Raises:
        ValueError: no members, or reports of different images, noises, severities or seeds, or an attack of one name
            with different settings. Reports from before images and settings were noted with them count as of any.

    Source: Yang et al. 2020, Sec. 4.6 and Appendix C.
    """
    reports = [*members, ensemble]
    if not members:
        raise ValueError("a gain needs the report of at least one member, got none")
    for what, values in (
        ("number of images", {report.n for report in reports}),
        ("images", {report.settings["images"] for report in reports if "images" in report.settings}),
        ("noise", {(report.settings["noise"], *report.names("noise")) for report in reports}),
        ("severities", {tuple(report.strengths("noise")) for report in reports}),
        ("seed", {report.settings["seed"] for report in reports}),
    ):
        if len(values) > 1:
            raise ValueError(f"reports must be of the same {what}, got {sorted(values)}")
    rows = [_row("clean", [report.column("clean", 0.0).correct.double() for report in reports])]
    if ensemble.names("noise"):
        rows.append(_row("noise", [_noise(report) for report in reports]))
    for column in ensemble.columns:
        key = "attack", column.name, column.strength
        twins = [c for report in members for c in report.columns if (c.group, c.name, c.strength) == key]
        if column.group == "attack" and len(twins) == len(members):
            settings = {c.how for c in (*twins, column)} - {""}
            if len(settings) > 1:
                raise ValueError(f"reports must have attacked alike, got {column.name!r} as {sorted(settings)}")
            name = f"{column.name} {radius(column.strength)}"
            rows.append(_row(name, [c.correct.double() for c in (*twins, column)]))
    return EnsembleGain(ensemble.n, all(report.held for report in reports), tuple(rows))


def _noise(report: Report) -> Tensor:
    """The share of a report's noises and severities under which each image is classified right, (N,)."""
    return torch.stack([c.correct.double() for c in report.columns if c.group == "noise"]).mean(0)


def _row(name: str, right: Sequence[Tensor]) -> GainRow:
    """A row from what is right of each image, (N,), for the members and, last, the ensemble."""
    *members, ensemble = right
    gain = ensemble - torch.stack(members).mean(0)
    return GainRow(
        name,
        tuple(member.mean().item() for member in members),
        ensemble.mean().item(),
        gain.mean().item(),
        gain.std(correction=0).item() / math.sqrt(len(gain)),
    )
