"""Linear stability of damped networks."""

from dampode.stability.spectrum import damped_eigenvalues

__all__ = ["damped_eigenvalues"]
