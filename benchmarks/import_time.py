"""Seconds that a fresh Python needs to import dampode, beside torch alone.

python -m benchmarks.import_time [--rounds 15]
"""

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks.common.record import command, provenance, write

__all__ = ["main"]

PACKAGES = ("torch", "dampode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="imports of each package, by turns")
    rounds = parser.parse_args().rounds
    for package in PACKAGES:
        import_seconds(package)  # from now on the files are in memory
    seconds: dict[str, list[float]] = {package: [] for package in PACKAGES}
    for _ in range(rounds):
        for package, found in seconds.items():
            found.append(import_seconds(package))
    ratios = [ours / theirs for theirs, ours in zip(*seconds.values(), strict=True)]
    rows = [{"package": package, "median s": statistics.median(found)} for package, found in seconds.items()]
    ratio = {"ratio": statistics.median(ratios), "spread": quartiles(ratios), "n": rounds}
    print(*rows, ratio, sep="\n")
    write("import_time", {**provenance(command(), seed=0), "rows": rows, "dampode / torch": ratio})


def import_seconds(package: str) -> float:
    """Seconds of one import in a fresh Python, the start of Python included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
    return time.perf_counter() - start


def quartiles(values: list[float]) -> list[float]:
    """The first and the third quartile."""
    first, _, third = statistics.quantiles(values, n=4)
    return [first, third]


if __name__ == "__main__":
    main()
