"""A block that goes to its equilibrium, and a certificate that no attack breaks.

The block solves −λ x + u − Wᵀ relu(W x + b) = 0 for the image u. For every λ > 0 there is exactly one solution, and it
moves by at most 1/λ times the move of u. So a margin in the logits is a radius around the image. The script trains the
network on scikit-learn's digits and shows, and asserts, that

- every search ends at an equilibrium, which is stable: the abscissa is below 0 (Prop. 3.3),
- the gradient of the implicit function theorem is that of finite differences,
- no image within its certified radius is misclassified by PGD.

Run: python examples/equilibrium_block.py (about 20 seconds on one core)
"""

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


def main() -> None:
    """Train, report, certify and attack."""
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

    report = equilibrium_report(model, x[:4])
    print(report.table())
    assert all(row.status == "SUCCESS" and row.abscissa <= -1 + 1e-4 and row.certified for row in report.rows)

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

    radii = certify(model, x.double(), y)
    for eps in (0.1, 0.2, 0.4):
        certified = (radii >= eps).double().mean().item()
        moved = PGD(steps=40, norm="l2")(model, x.double(), y, eps, torch.Generator().manual_seed(0), len(x))
        with torch.no_grad():
            right = model(moved).argmax(1) == y
        print(f"ε = {eps}: {100 * certified:.1f} % certified, {100 * right.double().mean().item():.1f} % under PGD")
        assert bool(right[radii >= eps].all()), "an attack broke a certificate"


if __name__ == "__main__":
    main()
