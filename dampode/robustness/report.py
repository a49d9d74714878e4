"""The robustness of a classifier, image by image, with the sanity checks that tell whether to believe it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_nonnegative, require_positive_int
from dampode._files import user_path
from dampode._identity import name_with_identity
from dampode.robustness import report_format
from dampode.robustness.modes import require_model
from dampode.robustness.noise.corruptions import CORRUPTIONS
from dampode.robustness.norms import Norm
from dampode.robustness.results import MEASURED, Column, SanityCheck, all_passed, format_eps

__all__ = ["Report"]


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The robustness of a classifier on n images.

    Args:
        n: number of images.
        columns: per-image results of every measurement.
        checks: the sanity checks.
        settings: what was measured and how, in words.

    Raises:
        ValueError: the results of a column are not those of n images (a probe may have fewer), a column occurs twice,
            or the column of clean images or the checks are missing.
        TypeError: n is not an int, or settings is not a mapping.
    """

    n: int
    columns: tuple[Column, ...]
    checks: tuple[SanityCheck, ...]
    settings: Mapping[str, str]

    def __post_init__(self) -> None:
        """Check that the columns belong to the images, and that nothing is missing or double."""
        require_positive_int(self.n, "n")
        require_instance(self.settings, Mapping, "settings")
        if not self.checks:
            raise ValueError("a report needs its sanity checks, got none; without them it may show gradient masking")
        for c in self.columns:
            m = len(c.correct)
            if m > self.n or (c.group in MEASURED and m < self.n):
                raise ValueError(
                    f"columns must be of the report's {self.n} images, got {m} of {c.name!r} at {c.strength:g}"
                )
        double = [key for key, count in Counter(c.key for c in self.columns).items() if count > 1]
        if double:
            raise ValueError(f"each column must occur once, got more of {double}")
        clean = [(c.name, c.strength) for c in self.columns if c.group == "clean"]
        if clean != [("clean", 0.0)]:
            raise ValueError(f"a report needs one column of clean images, ('clean', 0.0), got {clean}")

    def __repr__(self) -> str:
        outcome = report_format.OUTCOMES[self.passed]
        return (
            f"Report({self.n} images, {len(self.columns)} columns, clean {100 * self.clean:.1f} %, "
            f"sanity checks {outcome})"
        )

    @property
    def passed(self) -> bool | None:
        """The outcome of the sanity checks together.

        False if a check failed. None if none failed, but a required check was not made. True otherwise.
        """
        return all_passed(check.passed for check in self.checks if check.required or check.passed is not None)

    @property
    def clean(self) -> float:
        """Accuracy on clean images."""
        return self.column("clean", 0.0).accuracy

    def column(self, name: str, strength: float) -> Column:
        """The results of a noise at a severity, or of an attack at a radius.

        Raises:
            KeyError: there is no such column; the message lists the columns that exist.
        """
        measured = [c for c in self.columns if c.group in MEASURED]
        for column in measured:
            if column.name == name and column.strength == strength:
                return column
        raise KeyError(f"no {name!r} at {strength}; there are {sorted({(c.name, c.strength) for c in measured})}")

    def names(self, group: str, norm: Norm | None = None) -> list[str]:
        """The names in a group, "noise" or "attack", in the order of measurement. A norm selects attacks."""
        return list(dict.fromkeys(c.name for c in self.columns if c.group == group and norm in (None, c.norm)))

    def strengths(self, group: str, norm: Norm | None = None) -> list[float]:
        """The severities of "noise" or the radii of "attack", ascending. A norm selects attacks."""
        return sorted({c.strength for c in self.columns if c.group == group and norm in (None, c.norm)})

    @property
    def norms(self) -> list[Norm]:
        """The norms of the attacks, in the order of measurement."""
        return list(dict.fromkeys(c.norm for c in self.columns if c.group == "attack"))

    def radii(self, norm: Norm = "linf") -> list[float]:
        """The radii of the attacks in a norm that count in the worst case, ascending."""
        return sorted({c.strength for c in self.columns if c.counts_in_worst_case and c.norm == norm})

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Severities or radii, ascending, and the accuracy at each. The first point is the clean accuracy, at 0.

        Raises:
            KeyError: nothing of this name was measured; the message lists the names that were measured.
        """
        columns = sorted((c for c in self.columns if c.name == name and c.group in MEASURED), key=lambda c: c.strength)
        if not columns:
            raise KeyError(f"no {name!r} was measured; there are {[*self.names('noise'), *self.names('attack')]}")
        points = {0.0: self.clean} | {c.strength: c.accuracy for c in columns}
        return list(points), list(points.values())

    def noise_score(self, name: str | None = None) -> float:
        """Mean accuracy over the severities of a noise. Without a name, the mean over all noises, as in the paper.

        Raises:
            KeyError: this noise, or any noise, was not measured.
        """
        measured = self.names("noise")
        names = measured if name is None else [name]
        if not names or not set(names) <= set(measured):
            raise KeyError(f"no {name or 'noise'} was measured; there are {measured}")
        scores = [np.mean([c.accuracy for c in self.columns if c.group == "noise" and c.name == k]) for k in names]
        return float(np.mean(scores))

    def mean_corruption_error(self, baseline: "Report | None" = None) -> float:
        """Mean error over the severities of each corruption, then over the 15 corruptions of CIFAR-C or ImageNet-C.

        Args:
            baseline: the report of a reference network. Each corruption's error is then divided by the reference's, as
                for ImageNet-C, where the reference is AlexNet.

        Raises:
            KeyError: one of the 15 corruptions was not measured at all severities, 1 to 5.

        Source: Hendrycks & Dietterich 2019, Sec. 4.1.
        """
        errors = np.array(self._corruption_errors())
        return float(np.mean(errors if baseline is None else errors / np.array(baseline._corruption_errors())))

    def _corruption_errors(self) -> list[float]:
        """Mean error over the severities of each of the 15 corruptions."""
        missing = [n for n in CORRUPTIONS if {c.strength for c in self.columns if c.name == n} != {1, 2, 3, 4, 5}]
        if missing:
            raise KeyError(
                f"a mean corruption error needs severities 1 to 5 of all 15 corruptions; {', '.join(missing)} are "
                "missing; measure them with noise=CifarCFiles(...) or ImageNetCFiles(...)"
            )
        return [1 - self.noise_score(name) for name in CORRUPTIONS]

    def worst_case(self, eps: float, norm: Norm = "linf") -> Tensor:
        """Which images are classified correctly both clean and under every attack within ε of them, (n,) bool.

        An attack counts at its own radius and above, and in its own norm. An attack that may go further than its ε does
        not count.

        Raises:
            KeyError: ε is positive and below every measured radius; the message lists the radii.
            ValueError: ε is negative or not finite.
        """
        require_nonnegative(eps, "eps")
        counting = [c for c in self.columns if c.counts_in_worst_case and c.norm == norm]
        within = [c.correct for c in counting if c.strength <= eps]
        if eps > 0 and not within:
            radii = [format_eps(r, norm) for r in self.radii(norm)]
            raise KeyError(f"no attack within ε = {format_eps(eps, norm)} in {norm}; the radii are {radii}")
        return torch.stack([self.column("clean", 0.0).correct, *within]).all(0)

    def robust_accuracy(self, eps: float, norm: Norm = "linf") -> float:
        """Share of images that are classified correctly in the `worst_case`."""
        return self.worst_case(eps, norm).double().mean().item()

    def require_same_model(self, model: nn.Module) -> None:
        """Raise if the report is of another model. The class, the printed form and the tensors recognize a model.

        Raises:
            ValueError: the report is of another model, or does not say of which.
        """
        require_model(model)
        asked, found = name_with_identity(model), self.settings.get("model", "an unknown model")
        if found != asked:
            raise ValueError(
                f"the report must be of the model {asked}, got the report of {found}; measure this model, or read its "
                "own report"
            )

    def markdown(self) -> str:
        """The report as Markdown: noise, attacks, sanity checks, settings. Accuracies are in %."""
        return report_format.markdown(self)

    def to_json(self) -> str:
        """The whole report as JSON. Per-image results are hexadecimal bits, first image first."""
        return report_format.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote.

        Raises:
            ValueError: the text is not a report, is of another format, or was changed by hand: an accuracy differs
                from that of its flags, "passed" from the outcome of the checks, or `Report` refuses the values.
        """
        try:
            n, columns, checks, settings, passed = report_format.parse_json(text)
            report = cls(n, columns, checks, settings)
            if passed is not report.passed:
                raise ValueError(f"passed {passed}, {report.passed} by its sanity checks")
            return report
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"the text must be JSON of Report.to_json; it is damaged or of another kind ({error})"
            ) from None

    def save(self, folder: str | Path) -> None:
        """Write report.json and report.md into a folder. The folder is made if it does not exist."""
        report_format.save(self, user_path(folder))
