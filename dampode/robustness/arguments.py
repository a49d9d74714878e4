"""The arguments of `evaluate`: radii in each norm, transferred attacks, and the checks of all."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dampode._checks import require_instance, require_real
from dampode.robustness.attacks.settings import PGD, Transfer
from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import predict_and_differentiate
from dampode.robustness.noise.corruptions import require_severity
from dampode.robustness.noise.sources import NoiseSource
from dampode.robustness.norms import Norm, require_radius

__all__ = [
    "Radii",
    "radii_in",
    "require_attacks",
    "require_gradients",
    "require_images",
    "require_strengths",
    "transferred",
]

Radii = Sequence[float] | Mapping[Norm, Sequence[float]]
"""Radii of the attacks: the same in both norms, or those of each norm."""


def radii_in(eps: Radii, norm: Norm) -> Sequence[float]:
    """The radii in a norm; none if the norm is not named."""
    return eps.get(norm, ()) if isinstance(eps, Mapping) else eps


def transferred(transfer: Mapping[str, nn.Module], attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """PGD on each of the other classifiers, in each norm of the attacks."""
    norms = dict.fromkeys(attack.traits.norm for attack in attacks.values()) or {"linf": None}
    return {
        f"transfer from {name}" + (" in L2" if norm == "l2" else ""): Transfer(source, PGD(norm=norm))
        for name, source in transfer.items()
        for norm in norms
    }


def require_gradients(model: nn.Module, x: Tensor, y: Tensor, attacks: Mapping[str, Attack]) -> None:
    """Raise before anything is measured if an attack needs a gradient that its model does not have."""
    for name, attack in attacks.items():
        differentiated = model
        while isinstance(attack, Transfer):
            differentiated, attack = attack.source, attack.attack
        if not attack.traits.gradient_based:
            continue
        try:
            predict_and_differentiate(differentiated, x[:1], y[:1], 1)
        except ValueError as error:
            others = [
                n for n, a in attacks.items() if n != name and (a.traits.transferred or not a.traits.gradient_based)
            ]
            raise ValueError(
                f"the attack {name!r} needs a gradient: {error}. Pass attacks= with attacks that need no gradient of "
                f"this model (of these attacks: {', '.join(others) or 'none'}), such as Square, UniformNoise, or "
                "Transfer from a differentiable model"
            ) from error


def require_strengths(
    x: Tensor,
    eps: Radii,
    attacks: Mapping[str, Attack],
    noise: NoiseSource,
    noises: Sequence[str],
    severities: Sequence[int],
) -> None:
    """Raise unless radii, noises and severities are valid, without repetition, and the source has the noises."""
    strengths = {"noises": noises, "severities": severities}
    strengths |= {f"eps of {norm}": e for norm, e in eps.items()} if isinstance(eps, Mapping) else {"eps": eps}
    for what, values in strengths.items():
        require_instance(values, Sequence, what, "give one value as [value]")
    for norm in {attack.traits.norm for attack in attacks.values()} or {"linf"}:
        for e in radii_in(eps, norm):
            require_real(e, "eps")
            if e <= 0:
                raise ValueError(f"eps must be above 0, got {e}; clean accuracy is measured without an attack")
            require_radius(e, norm, x)
    for severity in severities:
        require_severity(severity)
    for what, values in strengths.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{what} must not hold a value twice, got {list(values)}")
    if not all(radii_in(eps, attack.traits.norm) for attack in attacks.values()):
        raise ValueError("eps must hold at least one radius for the attacks, got none; pass attacks={} for no attack")
    if noises and not severities:
        raise ValueError("severities must hold at least one for the noises, got none; pass noises=() for no noise")
    for name in noises:
        for severity in severities:
            noise.require(name, severity)


def require_attacks(attacks: Mapping[str, Attack], transfer: Mapping[str, nn.Module], noises: Sequence[str]) -> None:
    """Raise unless every attack is an `Attack` and has a name of its own, and every source is a model."""
    require_instance(attacks, Mapping, "attacks", "give each attack a name")
    require_instance(transfer, Mapping, "transfer", "give each source a name")
    taken = {"clean", *noises, *transferred(transfer, {})} & set(attacks)
    if taken:
        raise ValueError(f"an attack must have a name of its own, got {sorted(taken)}; give it another name")
    for name, attack in attacks.items():
        require_instance(attack, Attack, f"the attack {name!r}", "see dampode.robustness.PGD and Attack")


def require_images(x: Tensor, noise: NoiseSource) -> None:
    """Raise unless the images are (N, C, H, W), and the noise source has as many."""
    require_instance(noise, NoiseSource, "noise")
    if x.ndim != 4:
        raise ValueError(f"a report needs images (N, C, H, W), got shape {tuple(x.shape)}")
    if noise.n != len(x):
        raise ValueError(f"there must be as many noisy images as images, got {noise.n} and {len(x)}")
