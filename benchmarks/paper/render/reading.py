"""What we read from the small-scale results: the words of reading.md, with tables of the numbers they rest on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.paper.plan.protocols import SMALL, TEXT
from benchmarks.paper.plan.rows import BASE, FEWER_EPOCHS, ROWS
from benchmarks.paper.render.statistics import NOISE_MEAN, plain_at, select, share, summarize, trained, value
from benchmarks.paper.render.tables import markdown
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN

__all__ = ["reading"]

TEMPLATE = Path(__file__).parent / "reading.md"
PGD = "pgd 2/255"
NEAR_ZERO = 0.01
LARGE = 2.0
TRAINED_LAM = ("in_resnet-110", "lambda_in_resnet-110", "in_resnet-110-nodecay")
FIXED_LAM = ("in_resnet-110-frozen", "in_resnet-110-gains", "lambda_in_resnet-110-frozen", "lambda_in_resnet-110-gains")
DECAY = ("in_resnet-110", "in_resnet-110-nodecay", "lambda_in_resnet-110", "lambda_in_resnet-110-nodecay")


def reading(results: Sequence[Result]) -> str:
    """The section on what the results say. Its tables are made from the small-scale results of protocol "text"."""

    def runs(row: str) -> list[Result]:
        return select(results, row, "cifar10", TEXT.name, SMALL.name)

    plain = [run for row in (*FEWER_EPOCHS, "resnet-110") for run in runs(row)]
    return (
        TEMPLATE.read_text(encoding="utf-8")
        .strip()
        .format(
            kept=kept_table({row: runs(row) for row in (*BASE, *FEWER_EPOCHS)}),
            advantage=advantage_table({row: runs(row) for row in (*TRAINED_LAM, *FIXED_LAM)}, plain),
            decay=decay_table({row: runs(row) for row in DECAY}),
            coefficients=coefficient_table(runs("in_resnet-110")),
            failed=failed_table([run for row in ROWS for run in runs(row) if run["failed"]]),
        )
    )


def kept_table(runs_of: dict[str, list[Result]]) -> str:
    """Per network: clean accuracy, accuracy and share kept under noise and PGD, final loss; means over the runs."""
    columns: tuple[tuple[str, int, Callable[[Result], float]], ...] = (
        ("clean (%)", 1, lambda run: value(run, CLEAN)),
        ("noise (%)", 1, lambda run: value(run, NOISE_MEAN)),
        ("kept under noise (%)", 0, lambda run: share(run, NOISE_MEAN)),
        (f"{PGD} (%)", 1, lambda run: value(run, PGD)),
        (f"kept under {PGD} (%)", 0, lambda run: share(run, PGD)),
        ("final training loss", 2, lambda run: run["training"]["loss"][-1]),
        ("fall of the loss over the last quarter of the epochs", 3, _last_fall),
    )
    lines = []
    for row, runs in runs_of.items():
        if sound := trained(runs):
            cells = [f"{mean(read(run) for run in sound):.{digits}f}" for _, digits, read in columns]
            lines.append([ROWS[row].label, str(len(sound)), *cells])
    return markdown(["network", "runs", *(name for name, _, _ in columns)], lines) if lines else "Not run."


def advantage_table(runs_of: dict[str, list[Result]], plain: Sequence[Result]) -> str:
    """Per network: the least and the greatest advantage of a run over a plain network of the same clean accuracy."""
    lines = []
    for row, runs in runs_of.items():
        sound = trained(runs)
        gains = {m: [x for run in sound if (x := _advantage(run, m, plain)) is not None] for m in (NOISE_MEAN, PGD)}
        if not gains[PGD]:
            continue
        compared = f"{len(gains[PGD])} of {len(sound)}"
        cells = [_range(of_runs) for of_runs in gains.values()]
        lines.append([ROWS[row].label, "yes" if row in TRAINED_LAM else "no", compared, *cells])
    head = ["network", "λ is trained", "runs compared", "advantage under noise", f"advantage under {PGD}"]
    return markdown(head, lines) if lines else "Not run."


def decay_table(runs_of: dict[str, list[Result]]) -> str:
    """Per network: how many runs trained, their clean accuracy, and the largest λ_n of all runs."""
    lines = []
    for row, runs in runs_of.items():
        if not runs:
            continue
        sound = trained(runs)
        largest = max(max(run["coefficients"], default=0.0) for run in runs)
        decay = "with" if ROWS[row].decay_damping else "without"
        clean = summarize([value(run, CLEAN) for run in sound], len(runs) - len(sound))
        lines.append([ROWS[row].label, decay, f"{len(sound)} of {len(runs)}", str(clean), f"{largest:.0f}"])
    head = ["network", "decay on λ", "runs that trained", "clean accuracy (%)", "largest λ_n of all runs"]
    return markdown(head, lines) if lines else "Not run."


def coefficient_table(runs: Sequence[Result]) -> str:
    """Per run of one network: where its λ_n ended, its accuracy, and the share it keeps under PGD."""
    lines = []
    for run in trained(runs):
        lam = run["coefficients"]
        counts = sum(x <= NEAR_ZERO for x in lam), sum(x > LARGE for x in lam)
        accuracies = 100 * run["training"]["accuracy"][-1], value(run, CLEAN), share(run, PGD)
        lines.append(
            [
                str(run["config"]["seeds"][0]),
                *(f"{count} of {len(lam)}" for count in counts),
                f"{max(lam):.0f}",
                *(f"{accuracy:.1f}" for accuracy in accuracies),
            ]
        )
    head = [
        "seed",
        f"λ_n ≤ {NEAR_ZERO:g}",
        f"λ_n > {LARGE:g}",
        "largest λ_n",
        "accuracy on training images (%)",
        "clean accuracy (%)",
        f"share kept, {PGD} (%)",
    ]
    return markdown(head, lines) if lines else "Not run."


def failed_table(failed: Sequence[Result]) -> str:
    """Per failed run: accuracy on the training images and on the test images."""
    lines = [
        [
            ROWS[run["config"]["row"]].label,
            str(run["config"]["seeds"][0]),
            f"{100 * run['training']['accuracy'][-1]:.1f}",
            f"{value(run, CLEAN):.1f}" if run["accuracy"] else "diverged",
        ]
        for run in failed
    ]
    head = ["network", "seed", "accuracy on training images (%)", "clean accuracy (%)"]
    return markdown(head, lines) if lines else "No run failed."


def _range(values: Sequence[float]) -> str:
    """The least and the greatest value; one number for one value."""
    ends = dict.fromkeys((min(values), max(values)))
    return " to ".join(f"{end:.1f}".replace("-", "−") for end in ends)


def _last_fall(run: Result) -> float:
    """How far the training loss fell over the last quarter of the epochs."""
    loss: list[float] = run["training"]["loss"]
    return loss[-1 - len(loss) // 4] - loss[-1]


def _advantage(run: Result, measure: str, plain: Sequence[Result]) -> float | None:
    """Points by which a run exceeds a plain network of its clean accuracy; None if there is no such network."""
    of_plain = plain_at(plain, measure, value(run, CLEAN))
    return None if of_plain is None else value(run, measure) - of_plain
