"""docs/performance.md: every goal of performance as a ratio to a rival, what is behind its goal first."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.pages.results import exists, read, rows
from benchmarks.pages.standard_problems import calls_for

__all__ = ["Goal", "goals", "page"]

HEAD = """# Performance

This page is rendered by `python -m benchmarks.pages` from `benchmarks/results`. It lists every goal of the project's
performance beside what was measured, and what is behind its goal comes first.

Every number is a ratio in which more is better: what the rival needs ÷ what dampode needs, or dampode's score ÷ the
rival's. In brackets is the range: for seconds from the fastest rival and the slowest run of ours to the opposite, for
scores one standard deviation. Numbers without a range are counts, which have no noise.
"""


@dataclass(frozen=True)
class Goal:
    """One goal."""

    what: str
    rival: str
    wanted: float
    """The smallest ratio that meets the goal."""
    ratio: float | None
    """None where the rival did not solve the problem."""
    file: str
    """Name of the result file."""
    low: float | None = None
    high: float | None = None

    @property
    def share(self) -> float:
        """The ratio over the goal; infinite where the rival failed."""
        return math.inf if self.ratio is None else self.ratio / self.wanted


def timed(rival: Mapping[str, Any], ours: Mapping[str, Any], key: str, spread: str) -> dict[str, float]:
    """Ratio and range of two timings with a spread [min, max]."""
    (rival_low, rival_high), (low, high) = rival[spread], ours[spread]
    return {"ratio": rival[key] / ours[key], "low": rival_low / high, "high": rival_high / low}


def imports() -> Iterator[Goal]:
    """Time of import."""
    found = read("import_time")["dampode / torch"]
    low, high = sorted(1 / value for value in found["spread"])
    yield Goal("import dampode", "import torch", 1 / 1.2, 1 / found["ratio"], "import_time", low, high)


CALLS = {
    "0": (1.3, 1.3, 1.8), "1": (1.3, 1.3, 1.8), "10": (3, 3.5, 4.5), "100": (9, 9, 13), "1000": (60, 35, 55),
    "10000": (600, None, None),
}  # fmt: skip
"""λ -> goals for the calls at errors of 1e-3, 1e-5 and 1e-7."""
RIVALS = (
    "torchdiffeq dopri5",
    "torchdiffeq dopri8",
    "torchode dopri5",
    "SciPy LSODA, one sample",
    "AdaptiveExponential",
)


def damped() -> Iterator[Goal]:
    """ExponentialAdams beside dopri5 and the best rival, by calls and seconds."""
    problems, file = read("work_precision")["results"], "work_precision"
    for lam, wanted in CALLS.items():
        solvers = problems[f"MLP, λ = {lam}, ρ = 1"]
        for error, goal in zip(("0.001", "1e-05", "1e-07"), wanted, strict=True):
            rival, ours = solvers["torchdiffeq dopri5"].get(error), solvers["ExponentialAdams"].get(error)
            if goal is not None and ours is not None:
                ratio = rival["calls"] / ours["calls"] if rival else None
                yield Goal(f"calls of f, MLP, λ = {lam}, error {error}", "torchdiffeq dopri5", goal, ratio, file)
    for name, solvers in problems.items():
        rival, ours = (solvers[solver].get("1e-05") for solver in ("torchdiffeq dopri5", "ExponentialAdams"))
        if ours is None or "1 + λ" in name:
            continue
        lam = name.split("λ ")[1].split(",")[0].removeprefix("= ")
        goal = {"0": 1.2, "1": 1.2, "10": 1.2, "10000": 200.0}.get(lam, 1.0)
        found = timed(rival, ours, "forward s", "forward s, spread") if rival else {"ratio": None}
        yield Goal(f"seconds, {name}, error 1e-5", "torchdiffeq dopri5", goal, file=file, **found)
    shares = list(best_shares(problems))
    mean = math.exp(fmean(map(math.log, shares)))
    yield Goal("calls of f, geometric mean over all problems and errors", "best of the rivals", 2.0, mean, file)
    yield Goal("calls of f, worst problem and error", "best of the rivals", 1 / 1.1, min(shares), file)


def best_shares(problems: Mapping[str, Any]) -> Iterator[float]:
    """Calls of the best rival ÷ those of ExponentialAdams, for every problem with ρ = 1 and every error."""
    for name, solvers in problems.items():
        for error, ours in solvers["ExponentialAdams"].items() if "1 + λ" not in name else ():
            rivals = [found[error]["calls"] for rival in RIVALS if error in (found := solvers.get(rival) or {})]
            if rivals:
                yield min(rivals) / ours["calls"]


def stiff() -> Iterator[Goal]:
    """KenCarp4 beside SciPy's BDF on the stiff test set."""
    from benchmarks.common.standard_problems import STIFF

    measured = read("standard_problems")["results"]
    for problem in STIFF:
        solvers = measured.get(problem.name)
        if solvers is None:
            continue
        for error in (1e-3, 1e-5):
            ours, rival = (calls_for(solvers[name], error) for name in ("KenCarp4", "SciPy BDF"))
            if ours is not None:
                ratio = rival / ours if rival is not None else None
                what = f"calls of f, KenCarp4 on {problem.name}, error {error:.0e}"
                yield Goal(what, "SciPy BDF", 0.5, ratio, "standard_problems")


def overhead() -> Iterator[Goal]:
    """Cost of a step beyond the calls of f, per call of f."""
    calls = {"ExponentialAdams": 1, "AdaptiveExponential": 4, "torchdiffeq dopri5": 6}
    for problem, solvers in read("step_overhead")["results"].items():
        for name, row in solvers.items():
            solver = name.removesuffix(", compiled")
            if solver not in calls or solver == "torchdiffeq dopri5":
                continue
            rival, share = solvers["torchdiffeq dopri5"], calls[solver] / calls["torchdiffeq dopri5"]
            found = {key: share * value for key, value in timed(rival, row, "median us", "spread us").items()}
            wanted = 4.0 if name != solver else 1 / 1.5
            what = f"overhead per call of f, {name}, {problem}"
            yield Goal(what, "torchdiffeq dopri5", wanted, file="step_overhead", **found)


def times() -> Iterator[Goal]:
    """Times of each sample."""
    for solver, measured in read("sample_times")["results"].items():
        if "loop" not in measured:
            continue
        found = timed(measured["shared times"], measured["equal rows"], "median s", "spread s")
        yield Goal(f"seconds with times (N, T), {solver}", "shared times", 1 / 1.05, file="sample_times", **found)
        found = timed(measured["loop"], measured["own times"], "median s", "spread s")
        yield Goal(f"seconds of 256 time grids, {solver}", "a loop of solves", 50, file="sample_times", **found)


def sequences() -> Iterator[Goal]:
    """Layers for irregular series: seconds, memory and quality."""
    speed = read("sequence_speed")["results"]
    pairs = (
        ("DampedScan", "DampedScan, step by step", 5.0),
        ("DampedScan", "s5-pytorch, one step", 1.5),
        ("DampedRNN", "GRU cell in a loop", 1.0),
        ("DampedRNN", "nn.GRU", 1 / 3),
    )
    for hidden in ("64", "256"):
        for layer, rival, wanted in pairs:
            ours, theirs = (speed.get(f"{name}:1000:{hidden}") for name in (layer, rival))
            if ours and theirs:
                found = timed(theirs, ours, "median s", "spread s")
                yield Goal(
                    f"seconds, {layer}, 1,000 times, width {hidden}", rival, wanted, file="sequence_speed", **found
                )
        ours, theirs = (speed.get(f"{name}:1000:{hidden}") for name in ("DampedScan", "s5-pytorch, one step"))
        if ours and theirs:
            ratio = theirs["peak MB"] / ours["peak MB"]
            what = f"peak memory, DampedScan, 1,000 times, width {hidden}"
            yield Goal(what, "s5-pytorch, one step", 1.0, ratio, "sequence_speed")
    scores: dict[str, list[float]] = {}
    for key, run in read("sequence_quality")["results"].items():
        task, layer, _ = key.split("|")
        if task == "PhysioNet" and layer in ("DampedRNN", "DampedScan"):
            scores.setdefault(layer, []).append(run["score"])
    for layer, values in scores.items():
        mean, sd = fmean(values), stdev(values)
        low, high = (mean - sd) / 0.85, (mean + sd) / 0.85
        what = f"AUC on PhysioNet 2012, {layer}, {len(values)} seeds"
        yield Goal(what, "the goal of 0.85", 1.0, mean / 0.85, "sequence_quality", low, high)


def equilibria() -> Iterator[Goal]:
    """Fixed points and classifiers with an equilibrium block."""
    measured = read("steady_state")["rows"]
    calls = {(r["field"], r["dtype"], r["tolerance"], r["solver"]): r["calls"] for r in measured}
    for (field, dtype, tolerance, solver), ours in calls.items():
        rival = calls.get((field, dtype, tolerance, "torchdeq anderson"))
        if solver == "SteadyState":
            ratio = rival / ours if rival and ours else None
            what = f"calls of f to the equilibrium, {field}, {dtype}, {tolerance:.0e}"
            yield Goal(what, "torchdeq anderson", 1.5, ratio, "steady_state")
    means = read("equilibrium_digits")["means"]
    wanted = 1 - 0.01 / means["in_resnet"]
    ratio = means["equilibrium"] / means["in_resnet"]
    yield Goal("accuracy on digits, equilibrium block", "In-ResNet", wanted, ratio, "equilibrium_digits")


def attacks() -> Iterator[Goal]:
    """Seconds of attacks."""
    files = {"attack_speed": "PGD-20", "attack_speed_apgd": "APGD-CE", "attack_speed_auto": "AutoAttack"}
    for file, attack in files.items():
        if not exists(file):
            continue
        for found in read(file)["rows"]:
            for rival in ("torchattacks", "foolbox"):
                if found["way"].startswith("ours") and f"ratio_{rival}" in found:
                    way = found["way"].removeprefix("ours").replace('"', "")
                    what = f"seconds, {attack}{way}, ε = {found['eps_255']:.0f}/255"
                    yield Goal(what, rival, 1.5, found[f"ratio_{rival}"], file)


def goals() -> list[Goal]:
    """All goals, what is behind first."""
    found = [
        goal for group in (imports, damped, stiff, overhead, times, sequences, equilibria, attacks) for goal in group()
    ]
    return sorted(found, key=lambda goal: goal.share)


def number(value: float) -> str:
    """Two or three digits."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def line(goal: Goal) -> list[str]:
    """The cells of a goal."""
    if goal.ratio is None:
        measured = "the rival failed"
    else:
        measured = number(goal.ratio)
        if goal.low is not None and goal.high is not None:
            measured += f" ({number(goal.low)} to {number(goal.high)})"
    return [goal.what, goal.rival, number(goal.wanted), measured, f"[{goal.file}](#{goal.file.replace('_', '-')})"]


def page() -> str:
    """The page as Markdown."""
    found = goals()
    behind, met = [goal for goal in found if goal.share < 1], [goal for goal in found if goal.share >= 1]
    head = ("what", "beside", "goal", "measured", "file")
    lines = [HEAD, f"{len(behind)} of {len(found)} goals are not met.", "", "## Behind the goal", ""]
    lines += rows(head, map(line, behind))
    lines += ["", "## Met", ""]
    lines += rows(head, map(line, met))
    lines += ["", "## How it was measured", ""]
    for file in sorted({goal.file for goal in found}):
        origin = read(file)
        machine, versions = origin["machine"], origin["versions"]
        when = origin.get("date", f"commit {origin['commit']}")
        lines += [
            f"### {file.replace('_', ' ')}",
            "",
            f"`{origin['command']}`",
            "",
            f"{when}; {machine['processor']}, {machine['threads']} threads, {machine['device']}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + ".",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"
