"""Independent references: high-precision φ functions, SciPy's DOP853, the authors' layers written out plainly."""

import mpmath
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn

from dampode.fields import VectorField


def phi_mp(k, z):
    """φ_k(z) to 60 digits: the series where the closed form would cancel."""
    with mpmath.workdps(80):
        z = mpmath.mpf(z)
        if abs(z) < 1:
            return sum(z**n / mpmath.factorial(n + k) for n in range(60))
        return (mpmath.e**z - sum(z**j / mpmath.factorial(j) for j in range(k))) / z**k


def phi_derivative_mp(k, z):
    """φ_k'(z) = φ_k(z) − k φ_{k+1}(z)."""
    with mpmath.workdps(80):
        return phi_mp(k, z) - k * phi_mp(k + 1, z)


class Forced(VectorField):
    """tanh(x W + sin(ω t)): nonlinear, coupled and non-autonomous; W of spectral norm ``lipschitz``."""

    def __init__(self, d, lipschitz=1.0, dtype=torch.float64, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(d, d, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter((w * lipschitz / torch.linalg.matrix_norm(w, 2)).to(dtype))
        self.omega = nn.Parameter(torch.linspace(1.0, 3.0, d, dtype=torch.float64).to(dtype))

    def forward(self, t, x):
        return torch.tanh(x @ self.w + torch.sin(self.omega * t))


def dop853(func, x, t0, t1, t_eval=None):
    """The trajectory of a vector field func(t, x) on tensors by SciPy's DOP853 at tight tolerance, float64."""
    shape = x.shape

    def rhs(t, y):
        with torch.no_grad():
            return func(float(t), torch.from_numpy(y).view(shape)).numpy().ravel()

    y0 = x.detach().double().numpy().ravel()
    solution = solve_ivp(rhs, (t0, t1), y0, method="DOP853", rtol=1e-13, atol=1e-14, t_eval=t_eval, dense_output=True)
    assert solution.success
    return solution


def final_state(func, x, t0, t1):
    return torch.from_numpy(np.ascontiguousarray(dop853(func, x, t0, t1).y[:, -1])).view(x.shape)


def authors_in_resnet_layer(x, k, branch):
    """The authors' In-ResNet layer: it stores k = 1 − λ and skips with 1 − relu(1 − k)."""
    return (1 - torch.relu(1 - k)) * x + branch(x)


def authors_lambda_in_resnet_layer(x, lam, branch):
    """The authors' λ-In-ResNet layer: x + f(x) − relu(λ) (x − f(x))."""
    return (1 - torch.relu(lam)) * x + (1 + torch.relu(lam)) * branch(x)
