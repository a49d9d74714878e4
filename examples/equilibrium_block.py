"""An equilibrium block with a certificate
=======================================

The block solves −λ x + u − Wᵀ relu(W x + b) = 0 for the image u. For every λ > 0 there is exactly one solution, and
it moves by at most 1/λ times the move of u. So a margin in the logits is a radius around the image. The script
trains the network on scikit-learn's digits and asserts that

- every search ends at a stable equilibrium: the abscissa, the largest real part of an eigenvalue, is below 0,
- the gradient of the implicit function theorem is that of finite differences,
- no image within its certified radius is misclassified by PGD, an iterated attack.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from dampode import EquilibriumBlock, data
from dampode.contractive import BoundedLinear, DensePotential
from dampode.damping import Constant
from dampode.data import Augmentation
from dampode.integrators import SteadyState
from dampode.robustness import PGD
from dampode.stability import certify, equilibrium_report
from dampode.training import MarginLoss, Recipe, fit

torch.manual_seed(0)
images = data.load("digits")
block = EquilibriumBlock(DensePotential(64, 64), Constant(1.0), integrator=SteadyState(rtol=1e-5))
model = nn.Sequential(nn.Flatten(), BoundedLinear(64, 64), block, BoundedLinear(64, 10))
recipe = Recipe(6, batch_size=64, lr=0.02, weight_decay=0.0, augmentation=Augmentation(pad=0, flip=False))
fit(model, images, recipe, loss=MarginLoss(margin=0.2, temperature=0.1))
model.eval()

x, y = data.pixels(images.x_test), images.y_test
with torch.no_grad():
    accuracy = (model(x).argmax(1) == y).double().mean().item()
print(f"accuracy on {len(x)} test images: {100 * accuracy:.1f} %")
assert accuracy > 0.85

# %%
# Every search ends at a stable equilibrium
# -----------------------------------------
#
# The report has a row per image.

report = equilibrium_report(model, x[:4])
print(report.table())
assert all(row.status == "SUCCESS" and row.abscissa <= -1 + 1e-4 and row.certified for row in report.rows)

# %%
# The gradient is exact
# ---------------------
#
# The search keeps no graph. Its gradient solves one linear equation at the equilibrium.

exact = model.double()
u = x[:1].double().requires_grad_()
direction = torch.randn_like(u)
block.integrator = SteadyState(rtol=1e-11, atol=1e-12, gradient_rtol=1e-10)
(gradient,) = torch.autograd.grad(exact(u)[0, 0], u)
with torch.no_grad():
    h = 1e-5
    difference = (exact(u + h * direction) - exact(u - h * direction))[0, 0].item() / (2 * h)
slope = (gradient * direction).sum().item()
print(f"slope of a logit: {slope:.8f} by the implicit function theorem, {difference:.8f} by differences")
assert abs(slope - difference) < 1e-6
block.integrator = SteadyState(rtol=1e-5)

# %%
# No attack breaks the certificate
# --------------------------------
#
# ``certify`` returns a radius per image. PGD attacks every image within ε.

radii = certify(model, x.double(), y)
shares: dict[str, list[float]] = {"certified": [], "under PGD": []}
RADII = (0.1, 0.2, 0.4)
for eps in RADII:
    certified = (radii >= eps).double().mean().item()
    moved = PGD(steps=40, norm="l2")(model, x.double(), y, eps, torch.Generator().manual_seed(0), len(x))
    with torch.no_grad():
        right = model(moved).argmax(1) == y
    print(f"ε = {eps}: {100 * certified:.1f} % certified, {100 * right.double().mean().item():.1f} % under PGD")
    shares["certified"].append(100 * certified)
    shares["under PGD"].append(100 * right.double().mean().item())
    assert bool(right[radii >= eps].all()), "an attack broke a certificate"

# %%
# The true robust accuracy lies between the two lines: the certificate is a lower bound, and an attack an upper bound.

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, values in shares.items():
    (line,) = ax.plot((0.0, *RADII), (100 * accuracy, *values), "o-")
    ax.annotate(name, (RADII[-1], values[-1]), (8, 0), textcoords="offset points", va="center", color=line.get_color())
ax.set(xlabel="ε, l2 norm", ylabel="accuracy, %", xlim=(0, 0.5), ylim=(0, 100))
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/equilibrium_block.png", dpi=150)
