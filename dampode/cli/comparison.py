"""Compare the reports of several networks.

The command reads the report.json of each folder, and writes comparison.md, comparison.json and comparison.png into the
folder --out, together with one figure per report. The reports must be of the same images, noise and attacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dampode._files import write_atomically
from dampode.cli.robustness import draw
from dampode.robustness import Report, compare

__all__ = ["ComparisonArgs", "main"]


@dataclass(frozen=True)
class ComparisonArgs:
    """Compare the reports of several networks."""

    reports: tuple[Path, ...]
    """folders that dampode-robustness wrote; a folder's name is the network's"""
    out: Path
    """folder of the comparison"""


def parse(command: Sequence[str] | None) -> ComparisonArgs:
    """The arguments in a list of flags, or in this process's command line."""
    try:
        import tyro
    except ImportError:
        raise ImportError("the command line is tyro's: install dampode[train]") from None
    return tyro.cli(ComparisonArgs, prog="dampode-compare", description=__doc__, args=command)


def write(reports: dict[str, Report], out: Path) -> None:
    """Write the table and the figures, and print the table."""
    import matplotlib.pyplot as plt

    from dampode import plots

    comparison = compare(reports)
    write_atomically(out / "comparison.md", lambda file: file.write(comparison.markdown().encode()))
    write_atomically(out / "comparison.json", lambda file: file.write((comparison.to_json() + "\n").encode()))
    norms = next(iter(reports.values())).norms
    if norms:
        figure, axes = plt.subplots(1, len(norms), figsize=(5 * len(norms), 4), layout="constrained", squeeze=False)
        for ax, norm in zip(axes[0], norms, strict=True):
            plots.worst_cases(ax, reports, norm)
        write_atomically(out / "comparison.png", lambda file: figure.savefig(file, dpi=150, format="png"))
        plt.close(figure)
    for name, report in reports.items():
        draw(report, out / f"{name}.png")
    print(comparison.markdown())
    print(f"written to {out}")


def main(command: Sequence[str] | None = None) -> None:
    """Run the command line. Invalid input ends the process with a message.

    Args:
        command: flags; by default those of this process.
    """
    try:
        args = parse(command)
        names = [folder.resolve().name for folder in args.reports]
        if len(set(names)) < len(names):
            raise ValueError(f"each folder must have a name of its own, for it names the network, got {names}")
        texts = [(folder / "report.json").read_text(encoding="utf-8") for folder in args.reports]
        write({name: Report.from_json(text) for name, text in zip(names, texts, strict=True)}, args.out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
