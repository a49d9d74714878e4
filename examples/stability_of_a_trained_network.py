"""Spectra, and what damping does to them
======================================

The script trains four networks with the same start: λ learned (In-ResNet), λ frozen, the same factors in the
initial weights of a plain ResNet, and the plain ResNet. It prints a report by layer of the first and the last
network, and how an error grows in all four. In the reports α is the abscissa, the largest real part of an
eigenvalue, and μ₂ the log-norm, the fastest initial growth. The script asserts that

- Eq. 18 holds: the damped field's abscissa and log-norm are the undamped field's less λ,
- α <= μ₂ in every damped block, and no measured error grows faster than the block's largest singular value allows,
- at ``critical_damping`` a trained block becomes stable at its state: the abscissa is positive with a tenth less
  λ, and negative with a tenth more,
- the damped network and its fold, a plain network, are the same function and have the same relative error, but ‖δx‖
  differs. So ‖δx‖ alone says nothing about networks with batch norm.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

from dampode import DampedBlock, DampedODEFunc, data, models, plots, stability, training
from dampode.damping import Constant
from dampode.integrators import ExponentialEuler, LinearizedEuler
from dampode.models.preresnet import NetworkOptions, PreResNet
from dampode.weighting import unit


@dataclass(frozen=True)
class Args:
    """Train, measure and draw."""

    out: Path = Path("runs/stability")
    """folder of the reports and figures"""
    epochs: int = 4
    """passes over the training images"""


def last_stage_block(model: PreResNet, x: Tensor) -> tuple[DampedBlock, Tensor]:
    """The first damped block of a network's last stage, and the state that enters it."""
    seen: list[Tensor] = []
    *_, stage = model.stages
    assert isinstance(stage, nn.Sequential)
    block = stage[1]
    assert isinstance(block, DampedBlock)
    handle = block.register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return block, seen[0]


# %%
# Four networks from one start
# ----------------------------
#
# ``ablation_networks`` makes them, and ``fit`` trains each.

args = tyro.cli(Args, description=__doc__)
args.out.mkdir(parents=True, exist_ok=True)

digits = data.load("digits")
mean, std = digits.statistics()
torch.manual_seed(0)
sizes = NetworkOptions(width=8, in_channels=1, mean=mean, std=std)
ablation = models.ablation_networks(models.in_resnet(20, **sizes))
plain = models.resnet(20, **sizes)  # ablation.plain with damped blocks of λ = 0, so that the report has rows
plain.load_state_dict({k: v for k, v in ablation.learned.state_dict().items() if not k.endswith("damping.raw")})
ablation = ablation._replace(plain=plain)
recipe = training.Recipe(epochs=args.epochs, batch_size=64)
networks = {}
for name, network in zip(ablation._fields, ablation, strict=True):
    training.fit(network, digits, recipe, label=name)
    networks[name] = network.eval().double()

# %%
# A report by layer
# -----------------
#
# A row is one damped block, computed at the state that enters the block.

x = data.pixels(digits.x_test).double()
sample = x[:1]
reports = {name: stability.layer_report(networks[name], sample) for name in ("learned", "plain")}
for name, report in reports.items():
    print(f"\n{name}\n\n{report.table()}")
    (args.out / f"{name}.json").write_text(report.to_json() + "\n", encoding="utf-8")
    for row in report.rows:
        assert row.abscissa <= row.log_norm + 1e-9
        assert max(row.growth_random, row.growth_adversarial) <= 1.1 * row.gain
        assert abs(row.abscissa_undamped - row.lam - row.abscissa) < 1e-9
        assert abs(row.log_norm_undamped - row.lam - row.log_norm) < 1e-9

# %%
# Enough damping
# --------------
#
# ``critical_damping`` returns the λ at which the largest real part is 0.

block, state = last_stage_block(networks["learned"], sample)
nu = stability.eigenvalues(block.func.f, state, k=None)
lam = block.func.lam(0.0, state).item()
needed = stability.critical_damping(nu, unit)
print(f"\nlast stage's first block: λ = {lam:.3f}, abscissa {nu.real.max() - lam:.3f}, 0 at λ = {needed:.3f}")
for share, sign in ((0.9, 1), (1.1, -1)):
    damped = DampedODEFunc(block.func.f, Constant(share * needed))
    assert sign * stability.spectral_abscissa(damped, state) > 0

# %%
# How an error grows
# ------------------
#
# The same random error enters all four networks.

generator = torch.Generator().manual_seed(0)
images = x[:64]
delta = 8 / 255 * (torch.randint(0, 2, images.shape, generator=generator) * 2.0 - 1).double()
travel = {name: stability.error_propagation(network, images, delta) for name, network in networks.items()}
growth = {name: error.growth.mean(1).tolist() for name, error in travel.items()}
print("\n| network | accuracy | mean ‖δx_{n+1}‖/‖δx_n‖ | mean relative growth | ‖δx‖/‖x‖ after the last block |")
print("|---|---|---|---|---|")
for name, error in travel.items():
    right = (networks[name](x).argmax(1) == digits.y_test).double().mean()
    print(
        f"| {name} | {right:.3f} | {error.growth.mean():.3f} | {error.relative_growth.mean():.3f} "
        f"| {error.relative_error[-1].mean():.4f} |"
    )

# %%
# Folding moves λ into the weights. The function stays the same, but the size of the states changes.

folded = models.fold(networks["learned"])
with torch.no_grad():
    assert torch.allclose(folded(images), networks["learned"](images), atol=1e-8)
error, undamped = travel["learned"], stability.error_propagation(folded, images, delta)
assert torch.allclose(error.relative_error, undamped.relative_error, rtol=1e-5)
ratio = (undamped.after[-1] / error.after[-1]).mean()
assert ratio > 1.1
print(f"\nthe fold, undamped, is the same function: its ‖δx‖ is {ratio:.2f} times larger, its ‖δx‖/‖x‖ the same")

# %%
# Figures
# -------
#
# Damping with ρ = 1 moves every eigenvalue to the left by λ.

figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
plots.spectrum_shift(axes[0, 0], nu, lam, unit).set_title("last stage's first block: Eq. 18's shift")
plots.growth_by_layer(axes[0, 1], growth).set_title("random errors, transitions included")
rows = reports["learned"].rows
plots.growth_by_layer(
    axes[1, 0],
    {
        "largest singular value": [row.gain for row in rows],
        "adversarial": [row.growth_adversarial for row in rows],
        "random": [row.growth_random for row in rows],
    },
).set_title("In-ResNet, one image")
plots.coefficients_by_layer(axes[1, 1], {"In-ResNet": [models.coefficients(networks["learned"])]})
figure.savefig(args.out / "layers.png", dpi=110)

# %%
# Stability regions: where the step damps an error, with the eigenvalues of the trained block.

figure, axes = plt.subplots(2, 3, figsize=(11, 7.5), layout="constrained")
for line, integrator in zip(axes, (LinearizedEuler(), ExponentialEuler()), strict=True):
    for ax, z in zip(line, (0.0, 0.5, 1.5), strict=True):
        region = stability.stability_region(integrator, z)
        plots.stability_region(ax, region, f"{type(integrator).__name__}, hλ = {z:g}", nu)
figure.savefig(args.out / "regions.png", dpi=110)
print(f"figures: {args.out / 'layers.png'}, {args.out / 'regions.png'}")
