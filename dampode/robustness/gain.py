"""What an ensemble gains over its members, Sec. 4.6, Tables 6 and 8, Figs. 3, 7 and 8."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dampode._checks import require_labels, require_positive_int
from dampode.robustness.ensemble import Combine, Ensemble, combined
from dampode.robustness.evaluate import evaluating
from dampode.robustness.noise import SEVERITIES, corrupt

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a model in eval mode, pixels and labels to perturbed pixels, such as ``partial(fgsm, eps=2/255)``."""


@dataclass(frozen=True)
class GainRow:
    """Accuracies in [0, 1] of M members and of their ensemble on one kind of images.

    Args:
        name: "clean", "noise" or the attack.
        members: accuracy of each member; under an attack, on the images that attack this member, (M,).
        ensemble: accuracy of the ensemble; under an attack, on the images that attack the ensemble.
        gain: ensemble − mean of members, what Figs. 3, 7 and 8 show.
        error: standard error of the gain over the images, of which all models see the same.
        transfer_to_ensemble: accuracy of the ensemble on the images that attack each member, (M,).
        transfer_to_members: accuracy of each member on the images that attack the ensemble, (M,). Both are empty
            without an attack.
    """

    name: str
    members: tuple[float, ...]
    ensemble: float
    gain: float
    error: float
    transfer_to_ensemble: tuple[float, ...] = ()
    transfer_to_members: tuple[float, ...] = ()


@dataclass(frozen=True)
class EnsembleGain:
    """The gain on clean, noisy and attacked images.

    Args:
        n: number of images.
        combine: how the ensemble combines its members. One by votes has no gradient: its attack images are those of
            the softmax ensemble.
        rows: clean, noise where asked, and each attack.
    """

    n: int
    combine: Combine
    rows: tuple[GainRow, ...]

    def table(self) -> str:
        """Markdown in %: a row a kind of images."""
        lines = ["| images | mean single model | ensemble | gain | standard error |", "|---|---|---|---|---|"]
        for row in self.rows:
            single = row.ensemble - row.gain
            cells = " | ".join(f"{100 * value:.2f}" for value in (single, row.ensemble, row.gain, row.error))
            lines.append(f"| {row.name} | {cells} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All numbers, accuracies in [0, 1]."""
        return json.dumps(asdict(self), allow_nan=False)


def ensemble_gain(
    members: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    noise: Sequence[str] = tuple(SEVERITIES),
    combine: Combine = "softmax",
    seed: int = 0,
    batch_size: int = 500,
) -> EnsembleGain:
    """Compare an ensemble with the mean of its members, each attacked by its own gradients.

    The row "noise" is the paper's: the mean over severities 1 to 5, then over the groups.

    Args:
        members: classifiers of pixels, such as one network trained from several seeds; in eval mode for the call.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        attacks: by name; Table 6 has FGSM, IFGSM and PGD at 2/255.
        noise: groups of CIFAR-C, none for no such row.
        combine: how the ensemble combines its members, as in `Ensemble`.
        seed: seed of the noise, the same draws for all.
        batch_size: images a forward pass.

    Raises:
        ValueError: as `Ensemble`, or as `corrupt` and the attacks.

    Source: Yang et al. 2020, Sec. 4.6 and Appendix C.
    """
    require_positive_int(batch_size, "batch_size")
    require_labels(y, len(x))
    ensemble = Ensemble(list(members), combine)
    with evaluating(ensemble):
        target = Ensemble(list(members)) if combine == "votes" else ensemble
        rows = [_row("clean", *_own(_right(ensemble, x, y, batch_size)))]
        if noise:
            draws = [
                _right(ensemble, corrupt(x, name, severity, _generator(x, seed + severity)), y, batch_size)
                for name in noise
                for severity in range(1, 6)
            ]
            rows.append(_row("noise", *_own(torch.stack(draws).mean(0))))
        rows += [_attacked(name, attack, ensemble, target, x, y, batch_size) for name, attack in attacks.items()]
    return EnsembleGain(len(x), combine, tuple(rows))


def _attacked(
    name: str, attack: Attack, ensemble: Ensemble, target: nn.Module, x: Tensor, y: Tensor, batch_size: int
) -> GainRow:
    """The row of an attack, made on each member and on the ensemble, or on what stands for it."""
    on_members = []
    for victim in [*ensemble.members, target]:
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        moved = torch.cat([attack(victim, images, labels) for images, labels in batches])
        on_members.append(_right(ensemble, moved, y, batch_size))
    right = torch.stack(on_members)  # (victim M + 1, judge M + 1, N)
    accuracy = right.mean(2)
    own = right.diagonal().T  # (M + 1, N): each on the images made against it
    return _row(name, own[:-1], own[-1], accuracy[:-1, -1].tolist(), accuracy[-1, :-1].tolist())


def _row(
    name: str,
    members: Tensor,
    ensemble: Tensor,
    transfer_to_ensemble: Sequence[float] = (),
    transfer_to_members: Sequence[float] = (),
) -> GainRow:
    """A row from the shares right of each image, (M, N) and (N,)."""
    gain = ensemble - members.mean(0)
    error = gain.std(correction=0).item() / math.sqrt(len(gain))
    return GainRow(
        name,
        tuple(members.mean(1).tolist()),
        ensemble.mean().item(),
        gain.mean().item(),
        error,
        tuple(transfer_to_ensemble),
        tuple(transfer_to_members),
    )


def _own(right: Tensor) -> tuple[Tensor, Tensor]:
    """The members' part, (M, N), and the ensemble's, (N,)."""
    return right[:-1], right[-1]


def _right(ensemble: Ensemble, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """1 where the members and, last, their ensemble are right, (M + 1, N), float64 on the CPU; one pass of each."""
    batches = []
    with torch.no_grad():
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = ensemble.logits(images)
            if not bool(torch.isfinite(logits).all()):
                raise ValueError("logits must be finite, got NaN or infinite ones; look at the members' weights")
            chosen = torch.cat([logits, combined(logits, ensemble.combine)[None]]).argmax(-1)
            batches.append((chosen == labels).double().cpu())
    return torch.cat(batches, 1)


def _generator(x: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(x.device).manual_seed(seed)
