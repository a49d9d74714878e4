"""A campaign: the calls of many seeds and their verdicts."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module

from benchmarks.fuzz.evaluations import evaluate_call
from benchmarks.fuzz.files import load_call
from benchmarks.fuzz.oracle import Call, Verdict, judged
from benchmarks.fuzz.solves import solve_call

__all__ = ["QUICK_CALLS", "QUICK_LIMIT", "call_of", "fuzz", "fuzz_in_processes"]

QUICK_CALLS, QUICK_LIMIT = 150, 0.2


def call_of(seed: int) -> tuple[str, Call]:
    """What the call of a seed calls, and the call."""
    match seed % 12:
        case 10:
            return "data.load", load_call(seed)
        case 11:
            return "robustness.evaluate", evaluate_call(seed)
    return "odeint and solve", solve_call(seed)


def fuzz_in_processes(seeds: range, limit: float, processes: int) -> dict[int, tuple[str, str, Verdict]]:
    """`fuzz` with the seeds dealt out to processes."""
    dealt = [seeds[first::processes] for first in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        found = {seed: result for part in pool.map(partial(fuzz, limit=limit), dealt) for seed, result in part.items()}
    return dict(sorted(found.items()))


def fuzz(seeds: range, limit: float) -> dict[int, tuple[str, str, Verdict]]:
    """The calls of the seeds: seed -> (what was called, the call in words, the verdict)."""
    import_module("torch._dynamo")  # to stop a call in the middle of a late import would break the module
    found = {}
    begun = time.perf_counter()
    for done, seed in enumerate(seeds):
        if done % 200 == 0 and done:
            print(f"{done} calls of this process, {time.perf_counter() - begun:.0f} s", flush=True)
        called, call = call_of(seed)
        verdict = judged(call, limit)
        if verdict.outcome == "fault":
            print(f"fault at seed {seed}: {verdict.group}", flush=True)
        found[seed] = called, call.words, verdict
    return found
