"""The paper's claims as rules over means, applied both to the printed numbers and to our full-scale runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Literal, NamedTuple

from benchmarks.paper.plan.protocols import PROTOCOLS
from benchmarks.paper.plan.rows import LAM_RANGES
from benchmarks.paper.render.statistics import NOISE_MEAN, MeanOf, Summary, our_means, printed, select, trained, value
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN

__all__ = ["CLAIMS", "RUNS", "Claim", "Judgment", "judge_all"]

Verdict = Literal["holds", "does not hold", "too few runs", "not run", "not printed"]
RUNS = 3
"""A verdict needs at least this many runs of every row."""
MUCH = 10.0
"""Points of accuracy that count as "much higher"; the paper names no number."""
DEGENERATE = 5.0
"""A variant is degenerate if it gains fewer points than this under noise; the paper names no number."""
CNN_GUESSING = 10.0
"""Accuracy in percent of a CNN that failed to train, as one that guesses among ten classes."""

Term = tuple[str, str, str, bool]
"""(row, data set, measure, ensemble)"""


class Judgment(NamedTuple):
    """A claim, what the printed numbers say of it, and what our full-scale runs say under each protocol."""

    section: str
    claim: str
    print_says: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and a rule that decides it.

    Args:
        section: of the paper.
        text: what the claim says, thresholds included.
        terms: the means that are compared.
        rule: whether the claim holds, given the terms' means in order.
    """

    section: str
    text: str
    terms: tuple[Term, ...]
    rule: Callable[[Sequence[float]], bool]

    def judge(self, mean_of: MeanOf, missing: Verdict, runs: int) -> tuple[Verdict, list[Summary | None]]:
        """The verdict, and the means it follows from.

        Args:
            mean_of: gives the means.
            missing: the verdict if a mean is missing.
            runs: number of runs of every single network that a verdict needs.
        """
        found = [mean_of(*term) for term in self.terms]
        known = [summary for summary in found if summary is not None]
        if len(known) < len(found):
            return missing, found
        if any(summary.n < (1 if term[3] else runs) for term, summary in zip(self.terms, known, strict=True)):
            return "too few runs", found
        return "holds" if self.rule([summary.mean for summary in known]) else "does not hold", found


def single(row: str, measure: str, dataset: str = "cifar10") -> Term:
    """The term of a single network."""
    return row, dataset, measure, False


def _pairs() -> list[tuple[str, str, str]]:
    """(label, damped row, its undamped baseline)."""
    return [
        (f"{label}-{depth}", f"{key}-{depth}", f"resnet-{depth}")
        for depth in (110, 164)
        for label, key in (("In-ResNet", "in_resnet"), ("λ-In-ResNet", "lambda_in_resnet"))
    ]


def _accuracy_claims() -> list[Claim]:
    return [
        Claim(
            "4.3",
            f"{label}, {title}: accuracy drops by at most 3 points",
            (single(base, CLEAN, dataset), single(row, CLEAN, dataset)),
            lambda v: v[0] - v[1] <= 3,
        )
        for label, row, base in _pairs()
        for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
    ]


def _robustness_claims() -> list[Claim]:
    noise = [
        Claim(
            "4.3",
            f"{label}, CIFAR-10: over 15 points more accurate under noise",
            (single(base, NOISE_MEAN), single(row, NOISE_MEAN)),
            lambda v: v[1] - v[0] > 15,
        )
        for label, row, base in _pairs()
    ]
    attacks = [
        Claim(
            "4.3",
            f"{label}, CIFAR-10: PGD at {radius}/255 much higher (by {MUCH:g} points or more)",
            (single(base, f"pgd {radius}/255"), single(row, f"pgd {radius}/255")),
            lambda v: v[1] - v[0] >= MUCH,
        )
        for label, row, base in _pairs()
        for radius in (1, 2)
    ]
    return noise + attacks


def _start_claims() -> list[Claim]:
    claims = []
    for label, row, _ in _pairs()[:2]:
        names = [f"{row}-{low:g}-{high:g}" for low, high in LAM_RANGES]
        by_range = [*names[:2], row, *names[2:]]
        for measure, words, rule in (
            (CLEAN, "less accurate", falls),
            (NOISE_MEAN, "better under noise", grows),
            ("pgd 2/255", "better under pgd 2/255", grows),
        ):
            text = f"{label}, CIFAR-10: the larger λ at the start, the {words}"
            claims.append(Claim("4.5", text, tuple(single(name, measure) for name in by_range), rule))
    return claims


def _variant_claims() -> list[Claim]:
    return [
        Claim(
            "4.4",
            f"{label} degenerates to ResNet: under noise within {DEGENERATE:g} points of it",
            (single("resnet-110", NOISE_MEAN), single(row, NOISE_MEAN)),
            lambda v: abs(v[1] - v[0]) < DEGENERATE,
        )
        for row, label in (("in_resnet_sig-110", "In-ResNet-sig"), ("in_resnet_gating-110", "In-ResNet-gating"))
    ]


def _ensemble_claims() -> list[Claim]:
    return [
        Claim(
            "4.6",
            f"{label}, CIFAR-10, {measure}: an ensemble gains more than one of ResNets does",
            tuple((name, "cifar10", measure, ensemble) for name in (base, row) for ensemble in (False, True)),
            lambda v: v[3] - v[2] > v[1] - v[0],
        )
        for label, row, base in _pairs()
        for measure in (CLEAN, NOISE_MEAN)
    ]


def falls(means: Sequence[float]) -> bool:
    """Whether each mean is below the one before."""
    return all(after < before for before, after in pairwise(means))


def grows(means: Sequence[float]) -> bool:
    """Whether each mean is above the one before."""
    return all(after > before for before, after in pairwise(means))


CLAIMS = [*_accuracy_claims(), *_robustness_claims(), *_start_claims(), *_variant_claims(), *_ensemble_claims()]


def judge_all(results: Sequence[Result]) -> list[Judgment]:
    """Every claim, judged by the printed numbers and by our full-scale runs under each protocol."""
    judgments = [
        Judgment(
            claim.section,
            claim.text,
            _verdict_text(*claim.judge(printed, "not printed", 1)),
            tuple(
                _verdict_text(*claim.judge(our_means(results, protocol, "full"), "not run", RUNS))
                for protocol in PROTOCOLS
            ),
        )
        for claim in CLAIMS
    ]
    for claims in (cnn_claims, coefficient_claims, failure_claims):
        by_protocol = [claims(results, protocol) for protocol in PROTOCOLS]
        for same in zip(*by_protocol, strict=True):
            judgments.append(same[0]._replace(ours=tuple(verdict for judgment in same for verdict in judgment.ours)))
    return judgments


def _verdict_text(verdict: str, found: Sequence[Summary | None]) -> str:
    numbers = [f"{summary.mean:.2f}" if summary.n else "failed" for summary in found if summary is not None]
    return f"{verdict} ({', '.join(numbers)})" if len(numbers) == len(found) else verdict


def cnn_claims(results: Sequence[Result], protocol: str) -> list[Judgment]:
    """Sec. 4.3 on CNNs without shortcuts; a CNN that fails to train counts as one that guesses."""
    judgments = []
    cnns = select(results, "cnn-110", "cifar10", protocol, "full")
    for label, row, _ in _pairs()[:2]:
        runs = select(results, row, "cifar10", protocol, "full")
        ours = "not run"
        if cnns and runs:
            of_cnn, of_row = (
                mean(CNN_GUESSING if run["failed"] else value(run, CLEAN) for run in group) for group in (cnns, runs)
            )
            verdict = "holds" if of_row > of_cnn else "does not hold"
            ours = f"{verdict if min(len(cnns), len(runs)) >= RUNS else 'too few runs'} ({of_cnn:.2f}, {of_row:.2f})"
        text = f"{label}, CIFAR-10: more accurate than the CNN of its depth"
        judgments.append(Judgment("4.3", text, "not printed", (ours,)))
    return judgments


def coefficient_claims(results: Sequence[Result], protocol: str) -> list[Judgment]:
    """Sec. 4.3 and Fig. 1 on the values of the trained coefficients."""
    judgments = []
    for depth, printed_share in ((110, "79.6"), (164, "72.2")):
        runs = trained(select(results, f"in_resnet-{depth}", "cifar10", protocol, "full"))
        rules: tuple[tuple[str, str, Callable[[float], bool], Callable[[float], bool]], ...] = (
            ("most λ_n (over half) lie in [0, 1]", "by its figure", lambda x: 0 <= x <= 1, lambda s: s > 0.5),
            ("very few λ_n (under 5%) exceed 2", "by its figure", lambda x: x > 2, lambda s: s < 0.05),
            (
                "most λ_n (over half) exceed 0.01",
                f"{printed_share}% of 54, 3 unused",
                lambda x: x > 0.01,
                lambda s: s > 0.5,
            ),
        )
        for text, print_says, inside, holds in rules:
            if not runs:
                ours = "not run"
            else:
                found = mean(mean(inside(x) for x in run["coefficients"]) for run in runs)
                verdict = "too few runs" if len(runs) < RUNS else "holds" if holds(found) else "does not hold"
                ours = f"{verdict} ({100 * found:.1f}% of {len(runs[0]['coefficients'])})"
            judgments.append(Judgment("4.3", f"In-ResNet-{depth}, CIFAR-10: {text}", print_says, (ours,)))
    return judgments


def failure_claims(results: Sequence[Result], protocol: str) -> list[Judgment]:
    """Sec. 4.5 and Appendix B on runs that fail at U[0.3, 0.4]."""
    judgments = []
    for key, label, printed_failures in (
        ("in_resnet", "In-ResNet", {"cifar10": 1, "cifar100": 2}),
        ("lambda_in_resnet", "λ-In-ResNet", {"cifar10": 3, "cifar100": 3}),
    ):
        for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
            runs = select(results, f"{key}-110-0.3-0.4", dataset, protocol, "full")
            failed = sum(run["failed"] for run in runs)
            verdict = "too few runs" if len(runs) < RUNS else "holds" if failed else "does not hold"
            ours = f"{verdict} ({failed} of {len(runs)})" if runs else "not run"
            text = f"{label}-110, {title}: some runs from U[0.3, 0.4] fail"
            judgments.append(Judgment("4.5", text, f"holds ({printed_failures[dataset]} of 5)", (ours,)))
    return judgments
