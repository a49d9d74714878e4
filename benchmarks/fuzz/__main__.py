"""Random calls of the library, each judged by an oracle.

    python -m benchmarks.fuzz              12,000 calls, about half an hour on one quiet core
    python -m benchmarks.fuzz --quick      150 calls, some seconds; prints only
    python -m benchmarks.fuzz --only SEED  one call again, with its arguments and its traceback

Of 12 seeds in a row, 10 are calls of `odeint` and `solve`, one is a call of `data.load` on a mutated .npz file, and one
is a call of `robustness.evaluate` on mutated images, labels, models and settings. The seed defines the whole call.

These are faults:

- an error that the library does not raise in its own words, unless the user's own function raises it by itself
- NaN in an answer called SUCCESS; gradients of a finite answer that are not finite, without a StiffnessWarning
- an answer that is off by more than 100 tolerances, atol + rtol max|x| of the sample up to that time. The reference is
  SciPy's DOP853 or Radau in float64 at a tolerance of 1e-10, for at most 24 numbers. The allowed error is multiplied by
  the measured amplification of a change of the initial state. Methods with a fixed step are exempt, and so are answers
  with a warning.
- an answer to bad input, such as repeated times
- an answer with a step size per sample that differs by more than 100 tolerances from the answer for the samples one by
  one, unless it is that of the whole batch; and an answer to a tolerance that differs as much when the field draws
  other random numbers
- loaded pixels or labels that are not those of the file, or a wrong accuracy

A call that takes too long counts as slow and not as a fault.
"""

import time
from collections import Counter
from dataclasses import dataclass

import tyro

from benchmarks.common.record import provenance, write
from benchmarks.fuzz.campaign import QUICK_CALLS, QUICK_LIMIT, call_of, fuzz_in_processes
from benchmarks.fuzz.oracle import judged

SHOWN = 5


@dataclass(frozen=True)
class Args:
    """What to call."""

    calls: int = 12_000
    """number of calls"""
    seed: int = 0
    """seed of the first call; the next calls have the next seeds"""
    limit: float = 5.0
    """seconds of processor time that a call may take"""
    processes: int = 1
    """number of processes that share the calls"""
    only: int | None = None
    """the seed of the only call to make"""
    quick: bool = False
    """few calls; prints only"""


def main(args: Args) -> None:
    """Make the calls, print the faults by cause, and write the result."""
    if args.only is not None:
        called, call = call_of(args.only)
        print(f"{called}: {call.words}\n{judged(call, args.limit)}")
        call.run()
        return
    begun = time.perf_counter()
    calls, limit = (QUICK_CALLS, QUICK_LIMIT) if args.quick else (args.calls, args.limit)
    found = fuzz_in_processes(range(args.seed, args.seed + calls), limit, args.processes)
    groups: dict[str, list[int]] = {}
    for seed, (_, _, verdict) in found.items():
        if verdict.outcome == "fault":
            groups.setdefault(verdict.group, []).append(seed)
    groups = dict(sorted(groups.items(), key=lambda item: -len(item[1])))
    for group, seeds in groups.items():
        _, words, verdict = found[seeds[0]]
        print(f"\n{len(seeds)} x {group}\n  seeds {seeds[:SHOWN]}; {verdict.detail[:300]}\n  {words}")
    outcomes: dict[str, Counter[str]] = {}
    for called, _, verdict in found.values():
        outcomes.setdefault(called, Counter())[verdict.outcome] += 1
    slow = [seed for seed, (_, _, verdict) in found.items() if verdict.outcome == "slow"]
    for called, counts in outcomes.items():
        print(f"\n{called}: {counts.total()} calls: {dict(counts.most_common())}")
    print(f"slow: {slow[:20]}; {time.perf_counter() - begun:.0f} s")
    if not args.quick:
        command = f"python -m benchmarks.fuzz --calls {args.calls} --seed {args.seed} --limit {args.limit:g}"
        payload = {
            **provenance(command, args.seed),
            "calls": len(found),
            "seconds": time.perf_counter() - begun,
            "outcomes": {called: dict(counts.most_common()) for called, counts in outcomes.items()},
            "faults": [{"cause": group, "calls": len(seeds), "seeds": seeds[:20]} for group, seeds in groups.items()],
            "slow": slow,
        }
        print(write("fuzz", payload))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
