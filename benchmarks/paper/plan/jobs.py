"""A job: one network, data set, set of seeds, protocol and scale. Its result is one file."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from benchmarks.paper.plan.protocols import FULL, PROTOCOLS, SCALES, Protocol, Scale
from benchmarks.paper.plan.rows import ROWS, Row
from benchmarks.paper.plan.targets import CORE, Cell, cells_of, later_cells
from dampode._identity import plain
from dampode.training import Recipe

__all__ = ["Job", "job_named", "jobs_of"]

UNSAID = (("margin", 0.0), ("temperature", 1.0))
"""Settings of a recipe that no job of the paper uses, so that results do not name them."""

USUAL_SCALE = {field.name: plain(field.default, field.name) for field in fields(Scale) if field.default is not MISSING}
"""Settings of a scale that results do not name: those of the paper."""


@dataclass(frozen=True)
class Job:
    """A network to train and measure; with several seeds, the ensemble of their networks.

    Raises:
        ValueError: there is no seed, or a seed is there twice.
    """

    row: Row
    dataset: str
    seeds: tuple[int, ...]
    protocol: Protocol
    scale: Scale

    def __post_init__(self) -> None:
        """Check the seeds."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a job needs at least one seed and none twice, got {list(self.seeds)}")

    @property
    def stem(self) -> str:
        """The name of the job and of its files."""
        parts = self.row.name, self.dataset, self.scale.name, self.protocol.name
        return "_".join(parts) + "_seed" + "+".join(map(str, self.seeds))

    @property
    def config(self) -> dict[str, Any]:
        """Everything that its numbers depend on, as plain JSON values."""
        return {
            "row": self.row.name,
            "dataset": self.dataset,
            "seeds": list(self.seeds),
            "network": {
                "builder": self.row.builder.__name__,
                "ablation": None if self.row.ablation is None else self.row.ablation.__name__,
                **self.row.settings(self.protocol, self.scale),
            },
            "recipe": {
                name: value for name, value in _plain_fields(self.recipe).items() if (name, value) not in UNSAID
            },
            "protocol": {key: value for key, value in _plain_fields(self.protocol).items() if value is not None},
            "scale": {
                name: value for name, value in _plain_fields(self.scale).items() if value != USUAL_SCALE.get(name)
            },
        }

    @property
    def recipe(self) -> Recipe:
        """How its networks are trained."""
        return self.row.recipe(self.dataset, self.protocol, self.scale)

    @property
    def members(self) -> "list[Job]":
        """One job for each seed."""
        return [Job(self.row, self.dataset, (seed,), self.protocol, self.scale) for seed in self.seeds]


def jobs_of(
    target: str, datasets: tuple[str, ...], seeds: tuple[int, ...], protocol: Protocol, scale: Scale
) -> list[Job]:
    """The jobs of a target in the order in which they run; below full scale "next" is `CORE` alone.

    Raises:
        ValueError: there is no such target, or it has nothing on these data sets.
    """

    def jobs(cells: Iterable[Cell]) -> list[Job]:
        chosen = [cell for cell in cells if cell.dataset in datasets]
        singles = [
            Job(ROWS[c.row], c.dataset, (seed,), protocol, scale) for seed in seeds for c in chosen if not c.ensemble
        ]
        return singles + [Job(ROWS[c.row], c.dataset, seeds, protocol, scale) for c in chosen if c.ensemble]

    if target == "next":
        later = later_cells() if scale == FULL else ()
        found = jobs(CORE) + [job for cell in later for job in jobs([cell])]
    else:
        found = jobs(cells_of(target))
    if not found:
        raise ValueError(f"{target} has nothing on {', '.join(datasets)}; the paper has it on another data set")
    return found


def job_named(config: dict[str, Any]) -> Job:
    """The job that a result's settings name, as it would run now.

    Raises:
        ValueError: the row, protocol or scale does not exist any more.
    """
    try:
        row = ROWS[config["row"]]
        protocol, scale = PROTOCOLS[config["protocol"]["name"]], SCALES[config["scale"]["name"]]
    except KeyError as error:
        raise ValueError(f"a result must be of an existing row, protocol and scale, got {error}") from None
    return Job(row, config["dataset"], tuple(config["seeds"]), protocol, scale)


def _plain_fields(settings: Recipe | Protocol | Scale) -> dict[str, Any]:
    """The fields of a dataclass as plain JSON values; a field that is a dataclass becomes its printed form."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: str(value) if is_dataclass(value) else plain(value, name) for name, value in values.items()}
