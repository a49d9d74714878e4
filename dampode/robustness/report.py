"""What a measurement of robustness found, example by example: tables, curves, JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative, require_positive_int

FORMAT = 1
GROUPS = ("clean", "noise", "attack", "probe")


@dataclass(frozen=True, eq=False)
class Column:
    """One measurement on the first m images.

    Args:
        group: "clean", "noise", "attack", or "probe" for what was measured for the laws alone.
        name: what the images met, such as "gaussian_noise" or "PGD".
        kind: the class of the attack, such as "PGD"; the name of the noise.
        strength: severity, or ε; 0 on clean images.
        correct: whether each image was classified right, (m,) bool, on the CPU.
        excess: the most that any x' left the ball around x or [0, 1] by; at most rounding for an attack that keeps
            its word.
        how: the attack with its settings, as it prints; empty elsewhere, and in reports from before it was kept.
    """

    group: str
    name: str
    kind: str
    strength: float
    correct: Tensor
    excess: float = 0.0
    how: str = ""

    @property
    def accuracy(self) -> float:
        """Share of images classified right."""
        return self.correct.double().mean().item()


@dataclass(frozen=True)
class Law:
    """Something that must hold where robustness is real.

    Args:
        name: the law in words.
        held: whether it held; None where it was not checked.
        detail: the numbers.

    Raises:
        TypeError: held is something else, such as 0, which would pass for not broken.
    """

    name: str
    held: bool | None
    detail: str

    def __post_init__(self) -> None:
        """Check that it says whether it held."""
        require_instance(self.held, (bool, NoneType), f"held of the law {self.name!r}")


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The robustness of a classifier on n images, with the laws that say whether to believe it.

    Args:
        n: number of images.
        columns: every measurement.
        laws: what was checked.
        settings: what was measured and how, in words.

    Raises:
        ValueError: a column has not a flag for each image, or a probe has more; a column is there twice, of no group or
            of a negative strength; the clean column or the laws are missing.
        TypeError: a strength is no number, or settings no mapping.
    """

    n: int
    columns: tuple[Column, ...]
    laws: tuple[Law, ...]
    settings: Mapping[str, str]

    def __post_init__(self) -> None:
        """Check that the columns are of the images, and that nothing is missing or double."""
        require_positive_int(self.n, "n")
        require_instance(self.settings, Mapping, "settings")
        if not self.laws:
            raise ValueError("a report needs its laws, got none; without them its figures may be of gradient masking")
        for c in self.columns:
            require_nonnegative(c.strength, f"the strength of {c.name!r}")
            require_nonnegative(c.excess, f"the excess of {c.name!r}")
            if c.group not in GROUPS:
                raise ValueError(f"a column must be of a group {', '.join(GROUPS)}, got {c.group!r} of {c.name!r}")
            m = len(c.correct)
            if m > self.n or (c.group != "probe" and m < self.n):
                raise ValueError(
                    f"columns must be of the report's {self.n} images, got {m} of {c.name!r} at {c.strength:g}"
                )
        names = Counter((c.group, c.name, c.strength) for c in self.columns)
        double = [name for name, count in names.items() if count > 1]
        if double:
            raise ValueError(f"a column must be there once, got more of {double}")
        clean = [(c.name, c.strength) for c in self.columns if c.group == "clean"]
        if clean != [("clean", 0.0)]:
            raise ValueError(f"a report needs one column of clean images, ('clean', 0.0), got {clean}")

    def __repr__(self) -> str:
        laws = "laws held" if self.held else "a law broken"
        return f"Report({self.n} images, {len(self.columns)} columns, clean {100 * self.clean:.1f} %, {laws})"

    @property
    def held(self) -> bool:
        """Whether no law is broken."""
        return all(law.held is not False for law in self.laws)

    @property
    def clean(self) -> float:
        """Accuracy on the images as they are."""
        return self.column("clean", 0.0).accuracy

    def column(self, name: str, strength: float) -> Column:
        """The column of a name and a severity or ε.

        Raises:
            KeyError: there is none; what there is is listed.
        """
        shown = [c for c in self.columns if c.group != "probe"]
        for column in shown:
            if column.name == name and column.strength == strength:
                return column
        raise KeyError(f"no {name!r} at {strength}; there are {sorted({(c.name, c.strength) for c in shown})}")

    def names(self, group: str) -> list[str]:
        """The names of a group, "noise" or "attack", in the order measured."""
        return list(dict.fromkeys(c.name for c in self.columns if c.group == group))

    def strengths(self, group: str) -> list[float]:
        """The severities of "noise" or the radii of "attack", ascending."""
        return sorted({c.strength for c in self.columns if c.group == group})

    @property
    def radii(self) -> list[float]:
        """The radii of the attacks that count in the worst case, ascending: of all but `RecenteredPGD`."""
        return sorted({c.strength for c in self._counted})

    @property
    def _counted(self) -> list[Column]:
        return [c for c in self.columns if c.group == "attack" and c.kind != "RecenteredPGD"]

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Severities or radii, ascending, and the accuracy at each; the clean accuracy comes first, at 0.

        Raises:
            KeyError: nothing of this name was measured; what was is listed.
        """
        columns = sorted((c for c in self.columns if c.name == name and c.group != "probe"), key=lambda c: c.strength)
        if not columns:
            raise KeyError(f"no {name!r} was measured; there are {[*self.names('noise'), *self.names('attack')]}")
        points = {0.0: self.clean} | {c.strength: c.accuracy for c in columns}
        return list(points), list(points.values())

    def noise_score(self, name: str | None = None) -> float:
        """Mean over the severities of a noise; without a name, the mean of that over all noises, as in the paper.

        Raises:
            KeyError: no such noise, or none at all, was measured.
        """
        measured = self.names("noise")
        names = measured if name is None else [name]
        if not names or not set(names) <= set(measured):
            raise KeyError(f"no {name or 'noise'} was measured; there are {measured}")
        scores = [np.mean([c.accuracy for c in self.columns if c.group == "noise" and c.name == k]) for k in names]
        return float(np.mean(scores))

    def worst_case(self, eps: float) -> Tensor:
        """Which images stay right, clean and under every attack within ε of them, (n,) bool.

        An attack of a smaller radius counts too: its x' lie within ε. `RecenteredPGD`, which goes beyond, does not.

        Raises:
            KeyError: ε is above 0 and below every radius measured; those are listed.
            ValueError: ε is negative or not finite.
        """
        require_nonnegative(eps, "eps")
        within = [c.correct for c in self._counted if c.strength <= eps]
        if eps > 0 and not within:
            raise KeyError(f"no attack within ε = {radius(eps)}; the radii are {[radius(r) for r in self.radii]}")
        return torch.stack([self.column("clean", 0.0).correct, *within]).all(0)

    def robust_accuracy(self, eps: float) -> float:
        """Share of images that stay right in the `worst_case`."""
        return self.worst_case(eps).double().mean().item()

    def markdown(self) -> str:
        """The report as Markdown: noise, attacks, laws, settings; accuracies in %."""
        measured = {(c.name, c.strength): _percent(c.accuracy) for c in self.columns if c.group != "probe"}
        lines = [f"{self.n} images, accuracy in %, clean {100 * self.clean:.1f}", ""]
        if not self.held:
            lines += ["**A law is broken (below): these figures do not measure robustness.**", ""]
        if self.names("noise"):
            severities = self.strengths("noise")
            lines += _table(
                ["noise", *(f"{s:g}" for s in severities), "mean"],
                [
                    [
                        name,
                        *(measured.get((name, s), "") for s in severities),
                        _percent(self.noise_score(name)),
                    ]
                    for name in self.names("noise")
                ]
                + [["mean", *[""] * len(severities), _percent(self.noise_score())]],
            )
        if self.names("attack"):
            radii = self.strengths("attack")
            rows = [[name, *(measured.get((name, e), "") for e in radii)] for name in self.names("attack")]
            if self.radii:
                least = self.radii[0]
                rows.append(["worst case", *(_percent(self.robust_accuracy(e)) if e >= least else "" for e in radii)])
            lines += _table(["attack", *(f"ε = {radius(e)}" for e in radii)], rows)
        words = {True: "held", False: "**broken**", None: "not checked"}
        lines += _table(["law", "", "numbers"], [[law.name, words[law.held], law.detail] for law in self.laws])
        return "\n".join([*lines, *(f"- {key}: {value}" for key, value in self.settings.items())]) + "\n"

    def to_json(self) -> str:
        """The whole report as JSON, per-example results as hexadecimal bits, first image first."""
        content = {
            "format": FORMAT,
            "n": self.n,
            "settings": dict(self.settings),
            "held": self.held,
            "laws": [vars(law) for law in self.laws],
            "columns": [
                {
                    **{
                        key: getattr(c, key)
                        for key in ("group", "name", "kind", "how", "strength", "excess", "accuracy")
                    },
                    "images": len(c.correct),
                    "correct": pack(c.correct),
                }
                for c in self.columns
            ],
        }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report of `to_json`.

        Raises:
            ValueError: the text is no report, of another format, or was changed: an accuracy is not that of its flags,
                "held" not that of the laws, or what `Report` refuses.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            columns = tuple(
                Column(
                    c["group"],
                    c["name"],
                    c["kind"],
                    c["strength"],
                    unpack(c["correct"], c["images"]),
                    c["excess"],
                    c.get("how", ""),
                )
                for c in content["columns"]
            )
            for column, c in zip(columns, content["columns"], strict=True):
                if abs(c["accuracy"] - column.accuracy) > 1e-9:
                    raise ValueError(f"accuracy {c['accuracy']} of {column.name!r}, {column.accuracy} by its flags")
            laws = tuple(Law(**law) for law in content["laws"])
            report = cls(content["n"], columns, laws, content["settings"])
            if content["held"] is not report.held:
                raise ValueError(f"held {content['held']}, {report.held} by its laws")
            return report
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the text must be JSON of Report.to_json; it is damaged or of another kind ({error})"
            ) from None

    def save(self, folder: str | Path) -> None:
        """Write report.json and report.md into a folder, made where it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (Path(folder) / "report.md").write_text(self.markdown(), encoding="utf-8")


def radius(eps: float) -> str:
    """ε in words, as a multiple of 1/255."""
    return f"{255 * eps:.4g}/255"


def pack(flags: Tensor) -> str:
    """Bits of a bool tensor as a hexadecimal string, first element first."""
    return np.packbits(flags.cpu().numpy()).tobytes().hex()


def unpack(text: str, n: int) -> Tensor:
    """The n flags of `pack`; a ValueError where the string is too short or long."""
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-n // 8):
        raise ValueError(f"{n} flags need {-(-n // 8)} bytes, got {len(packed)}")
    return torch.from_numpy(np.unpackbits(packed, count=n).astype(bool))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
