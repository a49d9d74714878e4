"""The summary at the head of docs/paper.md: the paper's claims, what was measured at which scale, what is settled."""

from collections.abc import Sequence

from benchmarks.paper.plan.protocols import FIT, FULL, SMALL, TEXT
from benchmarks.paper.render.depth_study import ROBUSTNESS, SOUND, fit_runs, intervals
from benchmarks.paper.render.fit_section import accuracy_verdict, enough, property_verdict, shallow_verdict
from benchmarks.paper.render.statistics import NOISE_MEAN, Summary, our_means, printed, sampling_error
from benchmarks.paper.render.tables import markdown
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN

__all__ = ["summary"]

DAMPED = {"in_resnet-110": "In-ResNet-110", "lambda_in_resnet-110": "λ-In-ResNet-110"}
PLAIN = "resnet-110"
PGD = "pgd 2/255"
CLAIMS = {
    "costs at most 3 points of clean accuracy": CLEAN,
    "is far more accurate under noise": NOISE_MEAN,
    "is far more accurate under PGD at 2/255": PGD,
}


def summary(results: Sequence[Result]) -> str:
    """The section."""
    counts = {
        scale: sum(result["config"]["scale"]["name"] == scale for result in results)
        for scale in (FULL.name, FIT.name, SMALL.name)
    }
    errors = {"fit_error": sampling_error(1_000), "small_error": sampling_error(500)}
    return "\n\n".join(
        [
            HEAD.format(**counts, **errors),
            claim_table(results),
            f"**Settled at these scales.** {settled(results)}",
            OPEN if counts[FULL.name] == 0 else "**Not settled.** Claims with fewer than three runs at full scale.",
        ]
    )


def claim_table(results: Sequence[Result]) -> str:
    """Per claim and damped network: plain → damped, in percent, in the paper and at each scale."""
    lines = []
    for row, label in DAMPED.items():
        for words, measure in CLAIMS.items():
            cells = [_pair(printed(PLAIN, "cifar10", measure, False), printed(row, "cifar10", measure, False))]
            for scale in (FULL, FIT, SMALL):
                mean_of = our_means(results, TEXT.name, scale.name)
                cells.append(
                    _pair(*(mean_of(r, "cifar10", _measure(measure, scale.name), False) for r in (PLAIN, row)))
                )
            lines.append([f"{label} {words}", *cells])
    head = ["the paper's claim", "the paper", "ours, full scale", "scale fit, APGD for PGD", "small scale, underfit"]
    return markdown(head, lines)


def settled(results: Sequence[Result]) -> str:
    """What the runs at scale fit say of the cause, by rule."""
    runs_of = fit_runs(results)
    if not enough(runs_of):
        return (
            "Nothing about the cause: scale fit lacks runs. At the small scale damped networks keep a larger share of "
            "their clean accuracy than plain networks, and they are less accurate."
        )
    said = [property_verdict(ROBUSTNESS[measure], *intervals(runs_of, measure)) for measure in (SOUND, NOISE_MEAN)]
    lines = [*accuracy_verdict(runs_of), shallow_verdict(runs_of), *said]
    return "At scale fit:\n\n" + "\n".join(f"- {line}" for line in lines)


def _measure(measure: str, scale: str) -> str:
    """The measure at a scale: scale fit has a sound attack for PGD."""
    return SOUND if measure == PGD and scale == FIT.name else measure


def _pair(plain: Summary | None, damped: Summary | None) -> str:
    """Plain → damped: means with the number of runs."""
    if plain is None or damped is None:
        return "not run"
    return f"{plain} → {damped} (n = {plain.n}, {damped.n})"


HEAD = """## Summary

The paper says: a residual network whose state is damped in every block (In-ResNet, λ-In-ResNet) resists noise and
attacks much better than a plain ResNet, and loses little accuracy. It explains this by the stability that damping
gives. We ask whether its numbers come out again, and whether damping is the cause.

| scale | what it is | results |
| --- | --- | --- |
| full | the paper's networks, data and recipe | {full} |
| fit | depth 110 on an easier problem, which plain ResNets and In-ResNet learn; the cause is studied here | {fit} |
| small | depth 110 on a part of CIFAR-10; no network learns its training images | {small} |

The table gives accuracy in percent, plain ResNet-110 → damped network, mean ± standard deviation over n runs. The
sampling error of one run is at most {fit_error:.1f} points at scale fit and {small_error:.1f} points under attack at
the small scale. The scales must not be compared with one another or with the paper."""

OPEN = """**Not settled.** Everything at full scale: no run is complete. The two smaller scales say nothing about the
paper's numbers. Their problem, width and recipe differ from the paper's."""
