import pytest
import torch
from oracles import Forced

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.stability import damped_eigenvalues
from dampode.weighting import one_plus, unit


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("lam", [0.0, 0.6, 40.0])
def test_eq18_is_the_spectrum_of_the_damped_jacobian(lam, rho):
    f, x = Forced(5), torch.randn(1, 5, dtype=torch.float64)

    def spectrum(field):
        jacobian = torch.autograd.functional.jacobian(lambda v: field(0.2, v), x).view(5, 5)
        return torch.linalg.eigvals(jacobian)

    expected, got = spectrum(DampedODEFunc(f, Constant(lam), rho)), damped_eigenvalues(spectrum(f), lam, rho)
    distance = (expected[:, None] - got[None]).abs()
    assert distance.min(0).values.max() < 1e-10 * (1 + lam)
    assert distance.min(1).values.max() < 1e-10 * (1 + lam)


def test_eq18_sign_case():
    """With ρ = 1 + λ, damping moves an eigenvalue to the left exactly where Re ν < 1: also where Re ν < 0."""
    nu = torch.tensor([-2.0, -0.1, 0.5, 0.999, 1.001, 3.0])
    moved_left = damped_eigenvalues(nu, 0.7, one_plus) < nu
    assert moved_left.tolist() == [True, True, True, True, False, False]
    with pytest.raises(ValueError, match="λ must be at least 0"):
        damped_eigenvalues(nu, -1.0, unit)
