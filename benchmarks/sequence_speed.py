"""Seconds and peak memory of recurrent layers on irregular series, forward and backward, in float32 on the CPU.

    python -m benchmarks.sequence_speed            prints a table, writes results/sequence_speed.json
    python -m benchmarks.sequence_speed --quick    two rounds at T = 200 and H = 16; prints only

Every row is a process of its own: one warm-up, then the rounds. Memory is the peak of the resident set above what the
process held with the model and the data, measured over warm-up and rounds. The result file is written after each row,
and a run resumes where it stopped. Rivals that are not installed are left out (``pip install s5-pytorch ncps``).

s5-pytorch with a time per step makes an H x H matrix for every step of every sample: H = 256 takes 16 GB there, so that
row is skipped. Its other row takes one step size for all, which costs less.

Goals at T = 1,000 and batch 32: DampedScan at least 5 times as fast as its step-by-step form and 1.5 times as fast as
s5-pytorch, with less memory; DampedRNN not slower than a GRU cell in a Python loop, and within 3 times nn.GRU.
"""

import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import RESULTS, clock, command, provenance, write
from dampode.sequence import DampedRNN, DampedScan

BATCH, CHANNELS = 32, 8
SCALES = (0.5, 100.0)
Layer = Callable[[Tensor, Tensor], Tensor]
"""(x (N, T, C), times (N, T)) -> outputs (N, T, H)."""


@dataclass(frozen=True)
class Args:
    """What to measure."""

    quick: bool = False
    """two rounds of small sizes; prints only"""
    rounds: int = 7
    """measured rounds per row"""
    seed: int = 0
    """seed of weights and data"""
    threads: int = 2
    """threads of torch"""
    row: str = ""
    """for the process of one row: NAME:T:H, whose result is printed as JSON"""


class ScanStepByStep(DampedScan):
    """DampedScan as a loop over time that autograd follows."""

    def forward(  # type: ignore[override]
        self, x: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        written = self.write(x)
        a = torch.exp(-times.diff(dim=1, prepend=times[:, :1])[:, :, None].to(x) * self.damping(0.0, x))
        h, states = torch.zeros_like(written[:, 0]), []
        for k in range(x.shape[1]):
            h = a[:, k] * h + written[:, k]
            states.append(h)
        return self.read(torch.stack(states, 1)), h


class CellLoop(nn.Module):
    """A GRU cell in a Python loop, which reads the gap as one more input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(CHANNELS + 1, hidden)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        x = with_gaps(x, times)
        h, states = x.new_zeros(len(x), self.cell.hidden_size), []
        for k in range(x.shape[1]):
            h = self.cell(x[:, k], h)
            states.append(h)
        return torch.stack(states, 1)


def gaps_of(times: Tensor) -> Tensor:
    """The time since the step before, (N, T)."""
    return times.diff(dim=1, prepend=times[:, :1])


def with_gaps(x: Tensor, times: Tensor) -> Tensor:
    """The values and the gap before each step, (N, T, C + 1)."""
    return torch.cat((x, gaps_of(times)[:, :, None].to(x)), 2)


def s5(hidden: int, per_step: bool) -> tuple[nn.Module, Layer]:
    """S5 with a step per time, or with one step for all times; the input is widened to H channels first."""
    from s5 import S5

    widen, layer = nn.Linear(CHANNELS, hidden), S5(hidden)
    module = nn.ModuleList((widen, layer))

    def forward(x: Tensor, times: Tensor) -> Tensor:
        out: Tensor = layer(widen(x), step_scale=gaps_of(times).to(x) if per_step else 1.0)
        return out

    return module, forward


def cfc(hidden: int) -> tuple[nn.Module, Layer]:
    """CfC of ncps; its time spans (N, T) do not broadcast in a batch, so they are repeated for every channel."""
    from ncps.torch import CfC

    layer = CfC(CHANNELS, hidden)

    def forward(x: Tensor, times: Tensor) -> Tensor:
        out: Tensor = layer(x, timespans=gaps_of(times).to(x)[:, :, None].expand(-1, -1, hidden))[0]
        return out

    return layer, forward


def first(layer: nn.Module) -> tuple[nn.Module, Layer]:
    """A layer that returns outputs and a state."""
    return layer, lambda x, times: layer(x, times)[0]


def gru(hidden: int) -> tuple[nn.Module, Layer]:
    layer = nn.GRU(CHANNELS + 1, hidden, batch_first=True)
    return layer, lambda x, times: layer(with_gaps(x, times))[0]


def loop(hidden: int) -> tuple[nn.Module, Layer]:
    layer = CellLoop(hidden)
    return layer, layer


ROWS: dict[str, Callable[[int], tuple[nn.Module, Layer]]] = {
    "DampedScan": lambda hidden: first(DampedScan(CHANNELS, hidden, SCALES)),
    "DampedScan, oscillating": lambda hidden: first(DampedScan(CHANNELS, hidden, SCALES, oscillating=True)),
    "DampedScan, step by step": lambda hidden: first(ScanStepByStep(CHANNELS, hidden, SCALES)),
    "s5-pytorch, a step per time": partial(s5, per_step=True),
    "s5-pytorch, one step": partial(s5, per_step=False),
    "DampedRNN": lambda hidden: first(DampedRNN(CHANNELS, hidden, SCALES)),
    "nn.GRU": gru,
    "GRU cell in a loop": loop,
    "ncps CfC": cfc,
}


def cases(quick: bool) -> list[str]:
    """NAME:T:H of every row."""
    if quick:
        return [f"{name}:200:16" for name in ROWS if installed(name)]
    sizes = [f"{name}:1000:{hidden}" for hidden in (64, 256) for name in ROWS if installed(name)]
    lengths = [f"{name}:{steps}:64" for name in ("DampedScan", "DampedRNN") for steps in (100, 10_000)]
    return [case for case in sizes if case != "s5-pytorch, a step per time:1000:256"] + lengths


def installed(name: str) -> bool:
    """Whether the package of a row can be imported."""
    return all(find_spec(package) for word, package in (("s5", "s5"), ("ncps", "ncps")) if name.startswith(word))


def peak() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: str, args: Args) -> dict[str, float | list[float] | int]:
    """The figures of one row, in this process."""
    name, steps, hidden = case.rsplit(":", 2)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    module, layer = ROWS[name](int(hidden))
    x = torch.randn(BATCH, int(steps), CHANNELS)
    times = torch.rand(BATCH, int(steps), dtype=torch.float64).cumsum(1)
    layer(x[:, :8], times[:, :8]).square().mean().backward()  # loads what is loaded on first use
    begin, seconds = peak(), []
    for _ in range(1 + args.rounds):
        start = clock("cpu")
        layer(x, times).square().mean().backward()
        seconds.append(clock("cpu") - start)
    warm = seconds[1:]
    parameters = sum(p.numel() for p in module.parameters())
    return {
        "median s": median(warm),
        "spread s": [min(warm), max(warm)],
        "n": len(warm),
        "peak MB": peak() - begin,
        "parameters": parameters,
    }


def main(args: Args) -> None:
    if args.row:
        print(json.dumps(measure(args.row, args)))
        return
    path = RESULTS / "sequence_speed.json"
    rows = {} if args.quick or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["results"]
    rounds = 2 if args.quick else args.rounds
    print(f"{'':30} {'T':>6} {'H':>4} {'ms':>9} {'(range)':>18} {'peak MB':>8} {'parameters':>10}")
    for case in cases(args.quick):
        if case not in rows:
            flags = [f"--rounds={rounds}", f"--seed={args.seed}", f"--threads={args.threads}", f"--row={case}"]
            run = [sys.executable, "-m", "benchmarks.sequence_speed", *flags]
            done = subprocess.run(run, stdout=subprocess.PIPE, check=True, text=True)
            rows[case] = json.loads(done.stdout.splitlines()[-1])
            if not args.quick:
                write("sequence_speed", {**provenance(command(), args.seed), "batch": BATCH, "results": rows})
        name, steps, hidden = case.rsplit(":", 2)
        row = rows[case]
        low, high = row["spread s"]
        span = f"({1e3 * low:.1f} to {1e3 * high:.1f})"
        print(
            f"{name:30} {steps:>6} {hidden:>4} {1e3 * row['median s']:9.1f} {span:>18} {row['peak MB']:8.0f} "
            f"{row['parameters']:10}"
        )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
