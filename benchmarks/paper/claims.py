"""The paper's claims as rules over means, asked of the print and of our full-scale runs alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Literal

from benchmarks.paper.rows import RANGES
from benchmarks.paper.settings import PROTOCOLS
from benchmarks.paper.summaries import ACC, Result, Summary, Values, measured, printed, select, value

Verdict = Literal["holds", "does not hold", "too few runs", "not run", "not printed"]
RUNS = 3
"""A verdict asks for at least so many runs of every row."""
MUCH = 10.0
"""Points of accuracy that make "much higher"; the paper names no number."""
DEGENERATE = 5.0
"""A variant is degenerate where it gains fewer points than this under noise; the paper names no number."""


HARM = ("noise", "pgd 2/255")


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and a rule that decides it.

    Args:
        section: where it stands.
        text: what it says, thresholds included.
        terms: what is compared, (row, data set, measure, ensemble).
        rule: whether it holds, given the terms' means in order.
    """

    section: str
    text: str
    terms: tuple[tuple[str, str, str, bool], ...]
    rule: Callable[[Sequence[float]], bool]

    def judge(self, values: Values, absent: Verdict, runs: int) -> tuple[Verdict, list[Summary | None]]:
        """The verdict, and the means it comes from.

        Args:
            values: where the means are read.
            absent: what is said where one is missing.
            runs: how many runs of every single network a verdict takes.
        """
        found = [values(*term) for term in self.terms]
        known = [summary for summary in found if summary is not None]
        if len(known) < len(found):
            return absent, found
        if any(summary.n < (1 if term[3] else runs) for term, summary in zip(self.terms, known, strict=True)):
            return "too few runs", found
        return "holds" if self.rule([summary.mean for summary in known]) else "does not hold", found


def single(row: str, measure: str, dataset: str = "cifar10") -> tuple[str, str, str, bool]:
    return row, dataset, measure, False


def _pairs() -> list[tuple[str, str, str]]:
    """(label, damped row, its undamped baseline)."""
    return [
        (f"{label}-{depth}", f"{key}-{depth}", f"resnet-{depth}")
        for depth in (110, 164)
        for label, key in (("In-ResNet", "in_resnet"), ("λ-In-ResNet", "lambda_in_resnet"))
    ]


def _claims() -> list[Claim]:
    claims = []
    for label, row, base in _pairs():
        for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
            terms = single(base, ACC, dataset), single(row, ACC, dataset)
            text = f"{label}, {title}: accuracy drops by at most 3 points"
            claims.append(Claim("4.3", text, terms, lambda v: v[0] - v[1] <= 3))
    for label, row, base in _pairs():
        terms = single(base, "noise"), single(row, "noise")
        text = f"{label}, CIFAR-10: over 15 points more accurate under noise"
        claims.append(Claim("4.3", text, terms, lambda v: v[1] - v[0] > 15))
    for label, row, base in _pairs():
        for radius in (1, 2):
            key = f"pgd {radius}/255"
            text = f"{label}, CIFAR-10: PGD at {radius}/255 much higher (by {MUCH:g} points or more)"
            claims.append(Claim("4.3", text, (single(base, key), single(row, key)), lambda v: v[1] - v[0] >= MUCH))
    for label, row, _ in _pairs()[:2]:
        names = [f"{row}-{a:g}-{b:g}" for a, b in RANGES]
        along = [*names[:2], row, *names[2:]]
        for key, words, rule in ((ACC, "less accurate", falls), *((k, f"better under {k}", grows) for k in HARM)):
            text = f"{label}, CIFAR-10: the larger λ at the start, the {words}"
            claims.append(Claim("4.5", text, tuple(single(name, key) for name in along), rule))
    for name, label in (("in_resnet_sig-110", "In-ResNet-sig"), ("in_resnet_gating-110", "In-ResNet-gating")):
        terms = single("resnet-110", "noise"), single(name, "noise")
        text = f"{label} degenerates to ResNet: under noise within {DEGENERATE:g} points of it"
        claims.append(Claim("4.4", text, terms, lambda v: abs(v[1] - v[0]) < DEGENERATE))
    for label, row, base in _pairs():
        for key in (ACC, "noise"):
            terms = tuple((name, "cifar10", key, ens) for name in (base, row) for ens in (False, True))
            text = f"{label}, CIFAR-10, {key}: an ensemble gains more than one of ResNets does"
            claims.append(Claim("4.6", text, terms, lambda v: v[3] - v[2] > v[1] - v[0]))
    return claims


def falls(means: Sequence[float]) -> bool:
    return all(after < before for before, after in pairwise(means))


def grows(means: Sequence[float]) -> bool:
    return all(after > before for before, after in pairwise(means))


CLAIMS = _claims()


def judged(results: Sequence[Result]) -> list[list[str]]:
    """Each claim: section, text, what the print gives, what our full-scale runs give under each protocol."""
    lines = []
    for claim in CLAIMS:
        lines.append([claim.section, claim.text, _told(*claim.judge(printed, "not printed", 1))])
        for protocol in PROTOCOLS:
            lines[-1].append(_told(*claim.judge(measured(results, protocol, "full"), "not run", RUNS)))
    for of_runs in (cnn_claims, coefficient_claims, failure_claims):
        under = [of_runs(results, protocol) for protocol in PROTOCOLS]
        lines += [[*same[0][:3], *(line[3] for line in same)] for same in zip(*under, strict=True)]
    return lines


def _told(verdict: str, found: Sequence[Summary | None]) -> str:
    numbers = [f"{summary.mean:.2f}" if summary.n else "failed" for summary in found if summary is not None]
    return f"{verdict} ({', '.join(numbers)})" if len(numbers) == len(found) else verdict


def cnn_claims(results: Sequence[Result], protocol: str) -> list[tuple[str, str, str, str]]:
    """Sec. 4.3 on CNNs without shortcuts; a CNN that fails to train counts, as one that guesses."""
    lines = []
    cnns = select(results, "cnn-110", "cifar10", protocol, "full")
    for label, row, _ in _pairs()[:2]:
        runs = select(results, row, "cifar10", protocol, "full")
        ours = "not run"
        if cnns and runs:
            theirs, mine = (mean(10.0 if r["failed"] else value(r, ACC) for r in group) for group in (cnns, runs))
            verdict = "holds" if mine > theirs else "does not hold"
            ours = f"{verdict if min(len(cnns), len(runs)) >= RUNS else 'too few runs'} ({theirs:.2f}, {mine:.2f})"
        lines.append(("4.3", f"{label}, CIFAR-10: more accurate than the CNN of its depth", "not printed", ours))
    return lines


def coefficient_claims(results: Sequence[Result], protocol: str) -> list[tuple[str, str, str, str]]:
    """Sec. 4.3 and Fig. 1 on where the coefficients end."""
    lines = []
    for depth, theirs in ((110, "79.6"), (164, "72.2")):
        runs = [r for r in select(results, f"in_resnet-{depth}", "cifar10", protocol, "full") if not r["failed"]]
        rules: tuple[tuple[str, str, Callable[[float], bool], Callable[[float], bool]], ...] = (
            ("most λ_n (over half) lie in [0, 1]", "by its figure", lambda x: 0 <= x <= 1, lambda s: s > 0.5),
            ("very few λ_n (under 5%) exceed 2", "by its figure", lambda x: x > 2, lambda s: s < 0.05),
            ("most λ_n (over half) exceed 0.01", f"{theirs}% of 54, 3 unused", lambda x: x > 0.01, lambda s: s > 0.5),
        )
        for text, print_says, inside, holds in rules:
            if not runs:
                ours = "not run"
            else:
                share = mean(mean(inside(x) for x in run["coefficients"]) for run in runs)
                verdict = "too few runs" if len(runs) < RUNS else "holds" if holds(share) else "does not hold"
                ours = f"{verdict} ({100 * share:.1f}% of {len(runs[0]['coefficients'])})"
            lines.append(("4.3", f"In-ResNet-{depth}, CIFAR-10: {text}", print_says, ours))
    return lines


def failure_claims(results: Sequence[Result], protocol: str) -> list[tuple[str, str, str, str]]:
    """Sec. 4.5 and Appendix B on runs that fail at U[0.3, 0.4]."""
    lines = []
    for key, label, theirs in (
        ("in_resnet", "In-ResNet", {"cifar10": 1, "cifar100": 2}),
        ("lambda_in_resnet", "λ-In-ResNet", {"cifar10": 3, "cifar100": 3}),
    ):
        for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
            runs = select(results, f"{key}-110-0.3-0.4", dataset, protocol, "full")
            failed = sum(run["failed"] for run in runs)
            verdict = "too few runs" if len(runs) < RUNS else "holds" if failed else "does not hold"
            ours = f"{verdict} ({failed} of {len(runs)})" if runs else "not run"
            text = f"{label}-110, {title}: some runs from U[0.3, 0.4] fail"
            lines.append(("4.5", text, f"holds ({theirs[dataset]} of 5)", ours))
    return lines
