"""A job: one network, data set, set of seeds, protocol and scale. Its result is one file."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from benchmarks.paper.rows import CORE, ROWS, Need, Row, needs, rest
from benchmarks.paper.settings import PROTOCOLS, SCALES, Protocol, Scale
from dampode.training import Recipe


@dataclass(frozen=True)
class Job:
    """One cell of the experiment; with several seeds it is the ensemble of their networks.

    Raises:
        ValueError: no seeds, or one twice.
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
        """Its name, that of its files."""
        parts = self.row.name, self.dataset, self.scale.name, self.protocol.name
        return "_".join(parts) + "_seed" + "+".join(map(str, self.seeds))

    @property
    def config(self) -> dict[str, Any]:
        """Everything that makes its numbers what they are, fit for JSON."""
        return {
            "row": self.row.name,
            "dataset": self.dataset,
            "seeds": list(self.seeds),
            "network": {
                "builder": self.row.builder.__name__,
                "arm": None if self.row.arm is None else self.row.arm.__name__,
                **self.row.settings(self.protocol, self.scale),
            },
            "recipe": _plain(self.recipe),
            "protocol": _plain(self.protocol),
            "scale": _plain(self.scale),
        }

    @property
    def recipe(self) -> Recipe:
        """How its networks are trained."""
        return self.row.recipe(self.dataset, self.protocol, self.scale)

    @property
    def members(self) -> "list[Job]":
        """The job of each seed alone."""
        return [Job(self.row, self.dataset, (seed,), self.protocol, self.scale) for seed in self.seeds]


def jobs_of(
    target: str, datasets: tuple[str, ...], seeds: tuple[int, ...], protocol: Protocol, scale: Scale
) -> list[Job]:
    """The jobs of a target in the order they are run in; the small scale's `next` ends with the core.

    Raises:
        ValueError: no such target, or it has nothing on these data sets.
    """

    def jobs(needed: tuple[Need, ...]) -> list[Job]:
        wanted = [need for need in needed if need[1] in datasets]
        singles = [Job(ROWS[n], d, (seed,), protocol, scale) for seed in seeds for n, d, ens in wanted if not ens]
        return singles + [Job(ROWS[n], d, seeds, protocol, scale) for n, d, ens in wanted if ens]

    if target == "next":
        later = () if scale.name == "small" else rest()
        found = jobs(CORE) + [job for need in later for job in jobs((need,))]
    else:
        found = jobs(needs(target))
    if not found:
        raise ValueError(f"{target} has nothing on {', '.join(datasets)}; the paper has it on another data set")
    return found


def job_named(config: dict[str, Any]) -> Job:
    """The job that a result's settings name, as it would be run now.

    Raises:
        ValueError: there is no such row, protocol or scale any more.
    """
    try:
        row = ROWS[config["row"]]
        protocol, scale = PROTOCOLS[config["protocol"]["name"]], SCALES[config["scale"]["name"]]
    except KeyError as error:
        raise ValueError(f"a result must be of a row, protocol and scale that there are, got {error}") from None
    return Job(row, config["dataset"], tuple(config["seeds"]), protocol, scale)


def _plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON reads them back: lists, not tuples, and other dataclasses in words."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        name: list(value) if isinstance(value, tuple) else str(value) if is_dataclass(value) else value
        for name, value in values.items()
    }
