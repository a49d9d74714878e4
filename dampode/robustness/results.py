"""The parts of a report: a column of per-image results, and a sanity check."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType

import numpy as np
import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.norms import Norm

__all__ = ["MEASURED", "PROBES", "Column", "SanityCheck", "all_passed", "format_eps", "pack_flags", "unpack_flags"]

MEASURED = ("clean", "noise", "attack")
"""Groups of columns that are the results of a report."""
PROBES = (
    "repeated logits",
    "zero radius",
    "gradient",
    "finite differences",
    "cross entropy",
    "logits ratio",
    "twice the steps",
    "more restarts",
    "shorter steps",
    "large radius",
    "search without gradients",
)
"""Groups of columns that are measured for the sanity checks only."""


@dataclass(frozen=True, eq=False)
class Column:
    """Per-image results of one measurement on the first m images.

    Args:
        group: one of ``MEASURED`` or ``PROBES``.
        name: name of the noise or attack, such as "gaussian_noise" or "PGD"; "clean" for clean images.
        strength: severity of a noise, radius ε of an attack, 0 for clean images.
        correct: whether each image was classified correctly, (m,) bool, on the CPU. In the probes "repeated logits",
            "zero radius", "gradient" and "finite differences", whether the image passed the probe.
        overshoot: largest distance by which a perturbed pixel left the attack's ball or [0, 1]. It is at most rounding
            if the attack is implemented correctly.
        settings: the attack with its settings, as it prints; "" without an attack.
        traits: what the attack is; None without an attack.

    Raises:
        ValueError: the group is unknown, the strength or the overshoot is negative, or the traits of an attack are
            missing.
        TypeError: the strength or the overshoot is not a number.
    """

    group: str
    name: str
    strength: float
    correct: Tensor
    overshoot: float = 0.0
    settings: str = ""
    traits: AttackTraits | None = None

    def __post_init__(self) -> None:
        """Check the values, since columns are also read from files."""
        require_nonnegative(self.strength, f"the strength of {self.name!r}")
        require_nonnegative(self.overshoot, f"the overshoot of {self.name!r}")
        if self.group not in MEASURED + PROBES:
            groups = ", ".join(MEASURED + PROBES)
            raise ValueError(f"the group of a column must be one of {groups}, got {self.group!r} of {self.name!r}")
        if self.group == "attack" and self.traits is None:
            raise ValueError(f"the column of an attack must hold the attack's traits, got None for {self.name!r}")

    @property
    def key(self) -> tuple[str, str, float]:
        """What identifies the column in a report."""
        return self.group, self.name, self.strength

    @property
    def label(self) -> str:
        """The name, and for a probe its group."""
        return self.name if self.group in MEASURED else f"{self.name} ({self.group})"

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return self.correct.double().mean().item()

    @property
    def norm(self) -> Norm:
        """The norm of an attack's radius; L∞ without an attack."""
        return "linf" if self.traits is None else self.traits.norm

    @property
    def radius(self) -> str:
        """The radius of an attack in words."""
        return format_eps(self.strength, self.norm)

    @property
    def counts_in_worst_case(self) -> bool:
        """Whether it is a measured attack that stays within ε of the image."""
        return self.group == "attack" and self.traits is not None and self.traits.within_eps


@dataclass(frozen=True)
class SanityCheck:
    """A property that a robust classifier and a sound attack have.

    Args:
        name: the property in words.
        passed: True, False, or None if it was not checked.
        detail: the numbers compared, or why it was not checked.
        required: whether a report may count as passed only if this check was made.

    Raises:
        TypeError: passed is not a bool or None, or required is not a bool. A 0, for example, would look like None.
    """

    name: str
    passed: bool | None
    detail: str
    required: bool = True

    def __post_init__(self) -> None:
        """Check the types, since checks are also read from files."""
        require_instance(self.passed, (bool, NoneType), f"passed of the sanity check {self.name!r}")
        require_instance(self.required, bool, f"required of the sanity check {self.name!r}")


def all_passed(outcomes: Iterable[bool | None]) -> bool | None:
    """False if an outcome is False, else None if an outcome is None, else True."""
    outcomes = list(outcomes)
    if False in outcomes:
        return False
    return None if None in outcomes else True


def format_eps(eps: float, norm: Norm = "linf") -> str:
    """A radius: in L∞ as a multiple of 1/255, in L2 as a number."""
    return f"{255 * eps:.4g}/255" if norm == "linf" else f"{eps:.4g}"


def pack_flags(flags: Tensor) -> str:
    """A bool tensor as a hexadecimal string of its bits, first element first."""
    return np.packbits(flags.cpu().numpy()).tobytes().hex()


def unpack_flags(text: str, n: int) -> Tensor:
    """The n flags that `pack_flags` wrote.

    Raises:
        ValueError: the string is too short or too long.
    """
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-n // 8):
        raise ValueError(f"{n} flags need {-(-n // 8)} bytes, got {len(packed)}")
    return torch.from_numpy(np.unpackbits(packed, count=n).astype(bool))
