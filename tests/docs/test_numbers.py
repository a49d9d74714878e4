"""Numbers in hand-written pages are those of benchmarks/results.

A comment ``<!-- numbers: NAME -->`` on a page marks the text from there to the next heading or comment. The function
NAME below computes from the results what that text must hold, formatted as on the page.
"""

import json
import re
from statistics import mean, stdev

import pytest

from benchmarks.paper import results_file
from benchmarks.paper.render.statistics import plain_at, trained, value
from benchmarks.paper.run.measure import CLEAN
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUOTES = {}
LABELS = {"linf": "L∞", "l2": "L2"}
DAMPINGS = ("0", "1", "10", "100", "1,000", "10,000")


def quotes(function):
    QUOTES[function.__name__] = function
    return function


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def row(*cells):
    """A line of a table; an empty cell is a single space."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def power(number):
    """One digit and the power of ten, such as 8e-16 and 5e-7; and 0."""
    return f"{number:.0e}".replace("e-0", "e-") if number else "0"


def factor(ratio):
    """Ratios of 10 and more without decimals."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


@quotes
def steady_state_calls():
    rows = results("steady_state")["rows"]
    calls = {(r["field"], r["dtype"], r["tolerance"], r["solver"]): r["calls"] for r in rows}
    solvers = ("SteadyState", "torchdeq anderson", "torchdeq broyden")
    for field in dict.fromkeys(r["field"] for r in rows):
        at = (("float32", 1e-4), ("float32", 1e-5), ("float64", 1e-6), ("float64", 1e-8))
        yield row(field, *(" / ".join(str(calls[field, *where, solver]) for solver in solvers) for where in at))


@quotes
def three_networks():
    def percent(share):
        return "–" if share is None else f"{100 * share:.1f}"

    for r in results("certified_digits")["rows"]:
        pairs = (f"{percent(at['pgd'])} / {percent(at['certified'])}" for at in r["radii"])
        yield row(r["network"], f"{r['parameters']:,}", percent(r["clean"]), *pairs)
    beside = results("equilibrium_digits")
    sizes = {r["network"]: r["parameters"] for r in beside["rows"]}
    yield f"With {sizes['equilibrium']:,} parameters"
    yield f"reaches {percent(beside['means']['equilibrium'])} %"
    yield f"In-ResNet with {sizes['in_resnet']:,} parameters reaches {percent(beside['means']['in_resnet'])} %"


@quotes
def certified_accuracy():
    for r in results("certified_accuracy")["rows"]:
        at = r["radii"]["36/255"]
        shares = (at["pgd on the attacked"], at["certified on the attacked"])
        pair = " / ".join(f"{100 * share:.1f}" for share in shares)
        first = (f"{r['lam']:g}", f"{100 * r['clean']:.1f}", f"{100 * at['certified']:.1f}")
        yield row(*first, pair, str(r["broken"]), f"{r['slope']:.2g}", f"{r['bound']:.2g}")


@quotes
def beside_plain():
    stored = results_file.read_current(results_file.RESULTS)
    everything = [run for run in stored if run["config"]["scale"]["name"] == "small"]
    more = {}
    for name in ("in_resnet-110", "in_resnet-110-nodecay", "lambda_in_resnet-110", "lambda_in_resnet-110-gains"):
        runs = trained(everything, name)
        beside = [(run, plain_at(everything, "pgd 2/255", value(run, CLEAN))) for run in runs]
        more[name] = [value(run, "pgd 2/255") - plain for run, plain in beside if plain is not None]
    (scaled,) = more.pop("lambda_in_resnet-110-gains")
    learned = [points for runs in more.values() for points in runs]
    yield f"All {len(learned)} runs with trained λ"
    yield f"by {min(learned):.0f} to {max(learned):.0f} points under PGD at 2/255"
    yield f"resists by {scaled:.0f} points more"


def solver_ratios(fields, tolerance):
    """Calls and seconds of torchdiffeq's dopri5 ÷ ours, and its seconds ÷ ours compiled; None where dopri5 failed."""
    rival = fields["torchdiffeq dopri5"].get(tolerance)
    if rival is None:
        return None
    ours, compiled = (fields.get(f"ExponentialAdams{kind}", {}).get(tolerance) for kind in ("", ", compiled"))
    seconds = rival["forward s"] / ours["forward s"]
    return rival["calls"] / ours["calls"], seconds, rival["forward s"] / compiled["forward s"] if compiled else None


@quotes
def damping_cost():
    problems = results("work_precision")["results"]
    labels = {f"MLP, λ = {lam.replace(',', '')}, ρ = 1": lam for lam in DAMPINGS}
    labels["MLP, λ from 0.1 to 1e4 by channel, ρ = 1"] = "0.1 to 10,000 by channel"
    unsolved = []
    for problem, label in labels.items():
        cells = []
        for tolerance in ("0.001", "1e-05"):
            ratios = solver_ratios(problems[problem], tolerance)
            cells += ["", "", ""] if ratios is None else [factor(ratio) if ratio else "" for ratio in ratios]
            if ratios is None:
                cells[-3:] = ["no ratio", "no ratio", ""]
                unsolved.append(problems[problem]["ExponentialAdams"][tolerance]["forward s"])
        yield row(label, *cells)
    yield "ExponentialAdams` took " + " and ".join(f"{seconds:.2f} s" for seconds in unsolved)
    for lam in ("0", "1", "10", "100", "1,000"):
        calls, seconds, _ = solver_ratios(problems[f"MLP, λ = {lam.replace(',', '')}, ρ = 1"], "1e-07")
        yield row(lam, factor(calls), factor(seconds))


@quotes
def readme_cost():
    def seconds(value):
        return f"{value:.{2 if value >= 0.1 else 3}f}"

    problems = results("work_precision")["results"]
    for lam in DAMPINGS:
        solvers = problems[f"MLP, λ = {lam.replace(',', '')}, ρ = 1"]
        both = [solvers[name]["0.001"] for name in ("ExponentialAdams", "torchdiffeq dopri5")]
        calls = (f"{cost['calls']:,}" for cost in both)
        yield row(lam, *calls, *(seconds(cost["forward s"]) for cost in both))


@quotes
def compiling():
    steps = results("step_overhead")["results"]
    for state in ("batch 8, d 8", "batch 1024, d 64"):
        ratio = steps[state]["AdaptiveExponential, compiled"]["median us"]
        ratio /= steps[state]["AdaptiveExponential"]["median us"]
        yield row(f"a step of `AdaptiveExponential` without f, {state}", f"{ratio:.2f}")
    implicit = results("implicit")["results"]
    mlp = implicit["MLP, λ = 1000"]
    yield row("a solve by `KenCarp4`, MLP, λ = 1,000", f"{mlp['KenCarp4, compiled']['s'] / mlp['KenCarp4']['s']:.2f}")
    adams = results("work_precision")["results"]["MLP, λ = 10, ρ = 1"]
    ratio = adams["ExponentialAdams, compiled"]["1e-05"]["forward s"] / adams["ExponentialAdams"]["1e-05"]["forward s"]
    yield row("a solve by `ExponentialAdams`, MLP, λ = 10, error 1e-5", f"{ratio:.2f}")
    ways = {found["way"]: found["median_s"] for found in results("inference_speed")["rows"]}
    ratio = ways["In-ResNet, folded, compiled fp32"] / ways["In-ResNet, folded, eager"]
    yield row("inference of a folded In-ResNet-110", f"{ratio:.2f}")


@quotes
def compile_seconds():
    spent = [
        cost["KenCarp4, compiled"]["compile s"]
        for cost in results("implicit")["results"].values()
        if "KenCarp4, compiled" in cost
    ]
    yield f"compiled for {min(spent):.1f} to {max(spent):.1f} s per problem"


@quotes
def sample_times():
    for solver, measured in results("sample_times")["results"].items():
        if "loop" in measured:
            same, loop = measured["equal rows / shared times"], measured["loop / own times"]
            yield row(f"`{solver}`", f"{same:.2f}", factor(loop))


@quotes
def step_overhead():
    for problem, per_step in results("step_overhead")["results"].items():
        rival = per_step["torchdiffeq dopri5"]["median us"]
        ratios = [per_step[f"AdaptiveExponential{kind}"]["median us"] / rival for kind in ("", ", compiled")]
        yield row(problem, *(f"{ratio:.2f}" for ratio in ratios))


@quotes
def batching():
    for name, label in (
        ("a step size per sample", "`AdaptiveExponential`, a step size per sample"),
        ("a shared step size (torchdiffeq dopri5)", "torchdiffeq's dopri5, one step size for all"),
    ):
        measured = results("batching")["results"][name]
        yield row(label, power(measured["easy samples' change by the hard one"]), f"{measured['seconds']:.2f} s")


IMPLICIT_FIELDS = {
    f"{short}, λ = {lam.replace(',', '')}": f"{long}, {lam}"
    for short, long in (("MLP", "MLP"), ("conv", "convolutions"))
    for lam in DAMPINGS[3:]
}


@quotes
def implicit_cost():
    columns = (
        ("KenCarp4", 2),
        ("KenCarp4, compiled", 2),
        ("torchdiffeq dopri5", 2),
        ("AdaptiveExponential", 2),
        ("diffrax Kvaerno5", 1),
        ("SciPy BDF, one sample", 2),
    )
    measured = results("implicit")["results"]
    for field, label in IMPLICIT_FIELDS.items():
        cells = []
        for solver, digits in columns:
            if (cost := measured[field].get(solver)) is None:
                cells.append("")
            else:
                seconds = f"{cost['s']:.{1 if cost['s'] >= 10 else digits}f}"
                cells.append(f"{cost['calls']:,} ({seconds})")
        yield row(label, *cells)
    for field in ("MLP", "conv"):
        ours, rival = (measured[f"{field}, λ = 10000"][solver] for solver in ("KenCarp4", "torchdiffeq dopri5"))
        yield row(IMPLICIT_FIELDS[f"{field}, λ = 10000"], *(f"{rival[k] / ours[k]:.0f}" for k in ("calls", "s")))


@quotes
def memory():
    cost = results("gradients")["cost"]
    labels = {
        ("1000", "kept"): "`Krogstad4(1000)`, every step kept | 1,000",
        ("1000", "checkpoints"): "`Krogstad4(1000, recompute=31)` | 1,000",
        ("100", "kept"): "`Krogstad4(100)`, every step kept | 100",
        ("100", "checkpoints"): "`Krogstad4(100, recompute=10)` | 100",
        ("1000", "adaptive, kept"): "`AdaptiveExponential(1e-6, 1e-9)`, every step kept | its own",
        ("1000", "adaptive, checkpoints"): "`AdaptiveExponential(1e-6, 1e-9, recompute=8)` | its own",
        ("1000", "adjoint"): "torchdiffeq's dopri5 with the continuous adjoint | its own",
    }
    for (steps, way), label in labels.items():
        measured = cost[steps][way]
        peak, seconds, difference = measured["peak bytes"] / 1e6, measured["s"], measured.get("difference to kept")
        yield row(
            label,
            f"{peak:.{1 if peak < 10 else 0}f}",
            f"{seconds:.{2 if seconds < 1 else 1}f}",
            power(difference) if difference else "",
        )


@quotes
def implicit_gradients():
    measured = results("implicit")["results"]
    backward = []
    for field, label in IMPLICIT_FIELDS.items():
        cells = []
        for solver in ("KenCarp4", "KenCarp4, compiled", "AdaptiveExponential", "torchdiffeq dopri5"):
            cost = measured[field][solver]
            seconds = cost.get("with gradient s")
            digits = 2 if seconds is not None and seconds < 1 else 1
            cells.append(f"not run: {cost['calls']:,} calls" if seconds is None else f"{seconds:.{digits}f}")
            if solver.startswith("KenCarp4"):
                backward.append(100 * (1 - cost["s"] / seconds))
        yield row(label, *cells)
    yield f"The backward pass takes {min(backward):.0f} to {max(backward):.0f} % of the time of `KenCarp4`"


@quotes
def adjoint_error():
    errors = results("gradients")["errors"]
    for lam in DAMPINGS[1:5]:
        ours, theirs = (errors[lam.replace(",", "")][way] for way in ("kept", "adjoint"))
        if "failed" in theirs:
            yield f"at λ = {lam} torchdiffeq stops"
        else:
            yield row(lam, power(ours["x0"]), power(theirs["x0"]))


def training_numbers():
    """Of docs/training.md, anywhere on the page."""
    cuda = results("training_speed_cuda")
    rows = {measured["way"]: measured for measured in cuda["rows"]}
    recorded = "engine, bf16, blocks compiled, steps recorded"
    for way in ("plain", "engine", "engine, bf16, steps recorded", recorded):
        for network in ("ResNet", "In-ResNet"):
            yield f"{rows[f'{way}, {network}']['median_ms']:.1f} ms"
            if way != "plain":
                yield f"{rows[f'{way}, {network}']['speed']['ratio']:.1f}"
    damping = {
        cost["name"]: f"{int(round(100 * cost['ratio'] - 100, 6) + 0.5)} %" for cost in reversed(cuda["damping"])
    }
    for way in ("engine", "engine, bf16", "engine, bf16, steps recorded", recorded):
        yield damping[f"{way}, ResNet"]
    for name in ("training_speed", "training_speed_whole"):
        way = "engine" if name == "training_speed" else "engine, compiled whole"
        for measured in results(name)["rows"]:
            if measured["way"] in (f"{way}, ResNet", f"{way}, In-ResNet"):
                yield f"{measured['speed']['ratio']:.2f}"


@quotes
def attack_agreement_300():
    for found in results("attack_agreement_linf_300")["rows"]:
        counts = (*found["dampode"], found["torchattacks"], found["official"])
        yield row(found["network"], f"{found['eps_255']:.0f}/255", found["attack"], *counts)


@quotes
def attack_agreement_1000():
    """The rows that have been measured; with several seeds, a number for each."""
    for norm, label in (("linf", "L∞"), ("l2", "L2")):
        for found in measured_rows(f"attack_agreement_{norm}_1000"):
            counts = (
                ", ".join(map(str, found.get(name, ["not run"]))) for name in ("dampode", "torchattacks", "official")
            )
            yield row(found["network"], f"{label}, {found['eps_255']:.0f}/255", found["attack"], *counts)


@quotes
def attack_agreement_causes():
    """The starts; other rows of this result are on no page yet."""
    for found in results("attack_agreement_causes")["rows"]:
        if found["question"] == "equal start":
            radius = f"{LABELS[found['norm']]}, {found['eps_255']}/255"
            counts = map(str, (*found["dampode"], *found["official"], found["different"]))
            yield row(found["network"], radius, "APGD-CE", *counts)


@quotes
def attack_speed():
    """The rows that have been measured."""
    for suffix, attack in (("", "PGD-20"), ("_apgd", "APGD-CE, 100 steps"), ("_auto", "AutoAttack, standard")):
        for found in measured_rows(f"attack_speed{suffix}"):
            ratios = (f"{found[key]:.2f}" if key in found else "" for key in ("ratio_foolbox", "ratio_torchattacks"))
            measured = f"{found['images_per_s']:.1f}", f"{100 * found['robust_accuracy']:.1f}"
            library = found["way"].replace("ours", "dampode")
            yield row(attack, f"{found['eps_255']:.0f}/255", library, *measured, *ratios)


def measured_rows(name):
    """The rows of a result that may not have been measured yet."""
    return results(name)["rows"] if (ROOT / "benchmarks" / "results" / f"{name}.json").exists() else []


@quotes
def random_calls():
    found = results("fuzz")
    yield f"begins at seed {found['seed']}."
    for called, counts in found["outcomes"].items():
        numbers = (sum(counts.values()), counts.get("fault", 0), counts.get("slow", 0))
        yield row(called, *(f"{number:,}" for number in numbers))


def sequence_scores():
    """Task -> model -> scores of the seeds, in their order."""
    scores = {}
    for key, found in results("sequence_quality")["results"].items():
        task, name, _ = key.split("|")
        scores.setdefault(task, {}).setdefault(name, []).append(found["score"])
    return scores


@quotes
def irregular_physionet():
    for name, values in sequence_scores()["PhysioNet"].items():
        if len(values) > 1:
            yield row(name, f"{mean(values):.3f} ± {stdev(values):.3f}", len(values))


@quotes
def irregular_pendulum():
    for name, values in sequence_scores()["pendulum"].items():
        if len(values) > 1:
            yield row(name, f"{1000 * mean(values):.1f} ± {1000 * stdev(values):.1f}", len(values))


@quotes
def irregular_vowels():
    scores = sequence_scores()
    for name in scores["vowels 0 %"]:
        shares = [scores[f"vowels {share} %"][name] for share in (0, 30, 50, 70)]
        yield row(name, *(f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}" for values in shares))


@quotes
def sequence_speed():
    measured = results("sequence_speed")["results"]
    for key, small in measured.items():
        name, steps, size = key.rsplit(":", 2)
        if (steps, size) == ("1000", "64"):
            large = measured.get(f"{name}:1000:256")
            cells = [f"{1000 * at['median s']:.0f} | {at['peak MB']:.0f}" if at else "| " for at in (small, large)]
            yield f"| {name} | {cells[0]} | {cells[1]} |"


@pytest.mark.parametrize(("page", "numbers"), [("training", training_numbers)])
def test_the_page_holds_the_measured_numbers(page, numbers):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    missing = [number for number in numbers() if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text)]
    assert not missing


def marked():
    """The pages' marked texts by the name of their numbers."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"<!-- numbers: (\w+) -->\n(.*?)(?=<!-- numbers|\n#+ |\Z)", text, re.DOTALL):
            yield page.name, match[1], re.sub(r"(?<!\|)\n(?!\|)", " ", match[2])


MARKED = list(marked())


@pytest.mark.parametrize(("page", "name", "text"), MARKED, ids=[f"{page}:{name}" for page, name, _ in MARKED])
def test_the_numbers_of_a_page_are_measured(page, name, text):
    expected = list(QUOTES[name]())
    assert expected
    missing = [quote for quote in expected if quote not in text]
    assert not missing, f"{page} does not say:\n" + "\n".join(missing)


def test_all_numbers_are_on_a_page():
    assert {name for _, name, _ in MARKED} == set(QUOTES)


def test_a_changed_number_is_found():
    _, name, text = MARKED[0]
    assert any(quote not in re.sub(r"\d", "?", text) for quote in QUOTES[name]())
