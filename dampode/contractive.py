"""Vector fields whose Lipschitz constants are known: the negative gradient −Wᵀσ(Wx + b) of a convex function."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import name_of, require_positive, require_positive_int

__all__ = [
    "BoundedLinear",
    "ConvexPotential",
    "ConvolutionalPotential",
    "DensePotential",
    "gram_bound",
    "spectral_bound",
]

_SLOPES_0_TO_1: tuple[Callable[[Tensor], Tensor], ...] = (torch.relu, torch.tanh, torch.sigmoid, F.softplus)
"""Activations whose slope lies in [0, 1] everywhere."""


def gram_bound(w: Tensor, iterations: int = 5) -> Tensor:
    """An upper bound of the spectral norm of every matrix: ‖W‖^(2^k) <= ‖G_k‖_F with G_0 = W, G_{j+1} = G_jᴴ G_j.

    It is a bound after every number of iterations k, up to rounding, and differentiable. For rank r it is at most
    r^(1 / 2^(k+1)) times too large.

    Args:
        w: matrices (*, m, n), real or complex.
        iterations: k.

    Returns:
        (*), real.

    Source: Delattre, Barthélemy, Araujo & Allauzen 2023, Efficient bound of Lipschitz constant for convolutional layers
    by Gram iteration.
    """
    g = w if w.shape[-2] >= w.shape[-1] else w.mH
    log_scale = torch.zeros(w.shape[:-2], dtype=w.real.dtype, device=w.device)  # of ‖W‖, as G_k is rescaled
    tiny = torch.finfo(w.real.dtype).tiny
    for k in range(iterations):
        norm = torch.linalg.matrix_norm(g).clamp(min=tiny)
        g = g / norm[..., None, None]
        log_scale = log_scale + torch.log(norm) / 2**k
        g = g.mH @ g
    norm = torch.linalg.matrix_norm(g).clamp(min=tiny)
    return torch.exp(log_scale + torch.log(norm) / 2**iterations)


def spectral_bound(w: Tensor) -> float:
    """An upper bound of the largest spectral norm among matrices: the largest singular value and a margin for rounding.

    The margin is above the error bounds of the computation in float64, and of entries that were computed in w's dtype.

    Args:
        w: matrices (*, m, n), real or complex.
    """
    exact = w.detach().to(torch.complex128 if w.is_complex() else torch.float64)
    m, n = w.shape[-2:]
    margin = 100 * (m + n) * torch.finfo(w.dtype).eps * torch.linalg.matrix_norm(exact)
    return float((torch.linalg.matrix_norm(exact, 2) + margin).max())


class ConvexPotential(nn.Module, ABC):
    """f(x) = −Wᵀ σ(W x + b), or f(x, u) = u − Wᵀ σ(W x + b): the negative gradient of a convex function of x.

    The slope of σ lies in [0, 1]. So between any two states f is −Wᵀ D W with a diagonal 0 <= D <= 1: symmetric, with
    eigenvalues in [−‖W‖², 0]. Its Lipschitz constant is ‖W‖², its one-sided Lipschitz constant 0. The matrix is
    W = norm · V / bound(V) with a trained V and bound(V) >= ‖V‖, so ‖W‖ <= norm.

    Args:
        norm: the largest spectral norm of W, > 0.
        activation: σ: torch.relu, torch.tanh, torch.sigmoid or torch.nn.functional.softplus.

    Raises:
        ValueError: the slope of the activation is not known to lie in [0, 1], or norm is not above 0.

    Source: Meunier, Delattre, Araujo & Allauzen 2022, A dynamical system perspective for Lipschitz neural networks.
    """

    def __init__(self, norm: float, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        require_positive(norm, "norm")
        if activation not in _SLOPES_0_TO_1:
            known = ", ".join(name_of(a) for a in _SLOPES_0_TO_1)
            raise ValueError(f"the slope of the activation must lie in [0, 1], got {name_of(activation)}; take {known}")
        self.norm = float(norm)
        self.activation = activation

    @abstractmethod
    def matrices(self) -> Tensor:
        """Matrices (*, m, n) whose largest spectral norm is at least that of V."""

    @abstractmethod
    def potential_gradient(self, x: Tensor, scale: Tensor) -> Tensor:
        """The gradient Wᵀ σ(W x + b), W = scale · V."""

    def forward(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """f(x), or f(x, u) for the input u of an `EquilibriumBlock`."""
        scale = self.norm / gram_bound(self.matrices()).max()
        gradient = self.potential_gradient(x, scale)
        return -gradient if u is None else u - gradient

    def spectral_norm_bound(self) -> float:
        """An upper bound of ‖W‖ for the weights as they are, computed in float64 with a margin for its rounding."""
        with torch.no_grad():
            matrices = copy.deepcopy(self).double().matrices()
            scale = self.norm / gram_bound(matrices).max().item()
        return scale * spectral_bound(matrices) * (1 + 1e-12)

    def extra_repr(self) -> str:
        """The bound and the activation."""
        return f"norm={self.norm:g}, activation={name_of(self.activation)}"


class DensePotential(ConvexPotential):
    """f(x) = −Wᵀ σ(W x + b) on x (N, *, d), with W (hidden, d).

    Args:
        features: d.
        hidden: rows of W; None: d.
        norm: the largest spectral norm of W.
        activation: σ.

    Raises:
        ValueError, TypeError: as `ConvexPotential`, or a size is not a positive int.
    """

    def __init__(
        self,
        features: int,
        hidden: int | None = None,
        norm: float = math.sqrt(2),
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__(norm, activation)
        hidden = features if hidden is None else hidden
        require_positive_int(features, "features")
        require_positive_int(hidden, "hidden")
        self.weight = nn.Parameter(torch.randn(hidden, features) / features**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def matrices(self) -> Tensor:
        """V itself, (hidden, d)."""
        return self.weight

    def potential_gradient(self, x: Tensor, scale: Tensor) -> Tensor:
        """The gradient, (N, *, d)."""
        w = scale * self.weight
        return self.activation(F.linear(x, w, self.bias)) @ w


class ConvolutionalPotential(ConvexPotential):
    """f(x) = −Wᵀ σ(W x + b) on images (N, C, H, W), W a convolution with zeros around the image.

    A convolution with zeros around H x W images is a part of the circular one on images that are larger by k − 1, whose
    spectral norm is the largest one among the matrices at its frequencies.

    Args:
        channels: C.
        size: (H, W), which the bound depends on.
        hidden: channels of W x; None: C.
        kernel: odd width k of the kernel.
        norm: the largest spectral norm of W.
        activation: σ.

    Raises:
        ValueError, TypeError: as `ConvexPotential`, or a size is not a positive int, or k is even; in forward, the
            images have another size.

    Source: Sedghi, Gupta & Long 2019, The singular values of convolutional layers.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        hidden: int | None = None,
        kernel: int = 3,
        norm: float = math.sqrt(2),
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__(norm, activation)
        hidden = channels if hidden is None else hidden
        for name, value in (
            ("channels", channels),
            ("hidden", hidden),
            ("kernel", kernel),
            *(("size", s) for s in size),
        ):
            require_positive_int(value, name)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that images keep their size, got {kernel}")
        self.size = size
        self.weight = nn.Parameter(torch.randn(hidden, channels, kernel, kernel) / (kernel * channels**0.5))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def matrices(self) -> Tensor:
        """The matrices at the frequencies of the circular convolution, (F, hidden, C) complex."""
        kernel = self.weight.shape[-1]
        spectrum = torch.fft.rfft2(self.weight, [n + kernel - 1 for n in self.size])
        matrices: Tensor = spectrum.permute(2, 3, 0, 1).flatten(0, 1)
        return matrices

    def potential_gradient(self, x: Tensor, scale: Tensor) -> Tensor:
        """The gradient, (N, C, H, W)."""
        if tuple(x.shape[-2:]) != tuple(self.size):
            raise ValueError(f"the images must have the size {self.size} of the bound, got {tuple(x.shape[-2:])}")
        w, padding = scale * self.weight, self.weight.shape[-1] // 2
        gradient: Tensor = F.conv_transpose2d(
            self.activation(F.conv2d(x, w, self.bias, padding=padding)), w, padding=padding
        )
        return gradient


class BoundedLinear(nn.Module):
    """The layer x -> W x + b with ‖W‖ <= 1: W = V / bound(V), V trained.

    Args:
        in_features, out_features: sizes.

    Raises:
        ValueError, TypeError: a size is not a positive int.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        require_positive_int(in_features, "in_features")
        require_positive_int(out_features, "out_features")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def matrix(self) -> Tensor:
        """W, (out_features, in_features)."""
        w: Tensor = self.weight / gram_bound(self.weight)
        return w

    def forward(self, x: Tensor) -> Tensor:
        """The image, (N, *, out_features)."""
        image: Tensor = F.linear(x, self.matrix(), self.bias)
        return image
