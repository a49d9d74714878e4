"""Very short steps along the flow, which carry gradients with respect to times, and values per sample."""

from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential_rk import etd2rk_step
from dampode.integrators.splitting import Splitting

__all__ = ["per_sample", "shifted"]


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """N values in the shape (N, 1, ..., 1), which broadcasts to the state."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def shifted(func: DampedODEFunc, x: Tensor, t: Scalar, to: Scalar, calls: CallCounter) -> Tensor:
    """The state after a step of `ETD2RK` from t to the very near time ``to``, which carries the gradients of both."""
    return etd2rk_step(Splitting(func, t, x, calls), x, t, to - t)
