"""Linear and convolutional fields whose Jacobians are known."""

import math

import numpy as np
import pytest
import torch

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.fields import PreActBasic
from dampode.weighting import one_plus, unit

both_rho = pytest.mark.parametrize("rho", [unit, one_plus])


def matrix(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)


def linear(a, lam=0.0, rho=unit):
    """A damped linear field and the matrix of its right-hand side."""
    weight = float(rho(lam))
    return DampedODEFunc(lambda x: x @ a.T, Constant(lam), rho), weight * a - lam * torch.eye(len(a), dtype=a.dtype)


def rightmost(a, k):
    nu = torch.linalg.eigvals(a)
    return nu[torch.from_numpy(np.lexsort((-nu.imag.numpy(), -nu.real.numpy())))][:k]


def conv_field(size=4):
    torch.manual_seed(1)
    return PreActBasic(8, 8).double().eval(), torch.randn(1, 8, size, size, dtype=torch.float64)
