"""Figures of eigenvalues in the complex plane."""

from matplotlib.axes import Axes
from torch import Tensor

from dampode.stability import StabilityRegion, damped_eigenvalues
from dampode.weighting import Weighting

__all__ = ["spectrum_shift", "stability_region"]


def spectrum_shift(ax: Axes, nu: Tensor, lam: float, rho: Weighting) -> Axes:
    """Eigenvalues before and after damping. Lines show the shift ν -> ρ(λ) ν − λ of Eq. 18.

    Args:
        ax: where to draw.
        nu: eigenvalues ν of ∂f/∂x, complex.
        lam: damping λ >= 0.
        rho: the weighting ρ.

    Returns:
        The same Axes.
    """
    nu = nu.detach().cpu()
    before = nu.flatten().numpy()
    after = damped_eigenvalues(nu, lam, rho).flatten().numpy()
    ax.plot([before.real, after.real], [before.imag, after.imag], color="gray", linewidth=0.5, alpha=0.6)
    ax.scatter(before.real, before.imag, s=14, facecolors="none", edgecolors="tab:red", label="ν, undamped", zorder=2)
    ax.scatter(after.real, after.imag, s=10, color="tab:blue", label=f"ρ(λ) ν − λ, λ = {lam:.3g}", zorder=3)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel="real part", ylabel="imaginary part")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small")
    return ax


def stability_region(ax: Axes, region: StabilityRegion, title: str, nu: Tensor | None = None) -> Axes:
    """Where one step of an integrator does not amplify perturbations, |R(w)| <= 1, in the plane of w = h ρ ν.

    The equation itself is stable to the left of the dashed line.

    Args:
        ax: where to draw.
        region: the stability region of one integrator at one z = hλ.
        title: the title of the figure.
        nu: points w = h ρ ν to mark, complex.

    Returns:
        The same Axes.
    """
    re, im, modulus = region.re.numpy(), region.im.numpy(), region.amplification.abs().numpy()
    ax.contourf(re, im, modulus, levels=[0, 0.25, 0.5, 0.75, 1], cmap="Blues_r", alpha=0.8)
    ax.contour(re, im, modulus, levels=[1], colors="tab:blue", linewidths=1.5)
    ax.axvline(region.z, color="black", linewidth=0.8, linestyle="--")  # the equation is stable for Re w < hλ
    if nu is not None:
        nu = nu.detach().cpu()
        ax.scatter(nu.real.numpy(), nu.imag.numpy(), s=8, color="tab:red", zorder=3)
    ax.set(xlabel="Re hρν", ylabel="Im hρν", title=title, aspect="equal")
    ax.grid(alpha=0.3)
    return ax
