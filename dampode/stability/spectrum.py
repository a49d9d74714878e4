"""Numbers of a field's Jacobian: eigenvalues, abscissa, radius, log-norm, norm. A large Jacobian is never formed."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from dampode._checks import require_positive, require_positive_int
from dampode._precision import full_float32
from dampode.stability.jacobian_operator import (
    ConvergenceError,
    Field,
    JacobianOperator,
    at_time,
    jacobian,
    require_sample,
)

__all__ = [
    "MissedEigenvalueWarning",
    "eigenvalues",
    "log_norm",
    "spectral_abscissa",
    "spectral_norm",
    "spectral_radius",
]

Which = Literal["LR", "SR", "LM", "LI"]
DENSE = 256
"""Up to this D the numbers are computed from the matrix itself, which is faster and exact."""


class MissedEigenvalueWarning(UserWarning):
    """The first search missed the extreme eigenvalue; the result is that of the larger search that found it."""


@full_float32()
def eigenvalues(
    func: Field,
    x: Tensor,
    t: float = 0.0,
    k: int | None = 6,
    which: Which = "LR",
    *,
    tol: float | None = None,
    subspace: int | None = None,
    max_restarts: int = 300,
) -> Tensor:
    """The k extreme eigenvalues of ∂func/∂x at one sample, matrix-free by Arnoldi's method with implicit restarts.

    The searches use M = Jᵀ. It has the same eigenvalues as J, and a product with it takes one backward pass, less than
    half the cost of a product with J. Every pair is checked: ‖Mv − νv‖ / ‖v‖ must be small against ‖M‖, estimated from
    the products made. Then ν is an eigenvalue of a matrix that close to J. If J is far from normal, ν can still be far
    from every eigenvalue of J. A Krylov space can miss the rightmost eigenvalue. Therefore a second search looks for
    the extreme eigenvalue in a subspace twice as large, from another start. If it finds one further out, the whole
    search is repeated in the larger subspace, with a `MissedEigenvalueWarning`.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x: one sample, (1, *S), D numbers.
        t: depth time.
        k: number of eigenvalues, below D; None gives all D from the dense matrix.
        which: "LR" the rightmost, "SR" the leftmost, "LM" the largest modulus, "LI" the largest imaginary part.
        tol: relative accuracy of ARPACK; None: 1e-10 in float64, 1e-5 in float32.
        subspace: dimension of the Krylov space, at least k + 2; None: max(2k + 1, 60). If it reaches D, the eigenvalues
            are computed from the dense matrix.
        max_restarts: largest number of restarts of a search.

    Returns:
        (k,) complex, by descending real part; detached and on the CPU.

    Raises:
        ValueError: k or subspace does not fit D, ``which`` is another word; as `JacobianOperator`.
        ConvergenceError: not all k eigenvalues converged (``best`` holds those that did), the second search did not
            converge, or a residual is too large.

    Source: Lehoucq, Sorensen & Yang 1998, ARPACK users' guide.
    """
    if which not in ("LR", "SR", "LM", "LI"):
        raise ValueError(f'which must be "LR", "SR", "LM" or "LI", got {which!r}; k=None gives all eigenvalues')
    require_sample(x)
    if k is None:
        return _sorted(torch.linalg.eigvals(jacobian(func, x, t)))
    require_positive_int(k, "k")
    require_positive_int(max_restarts, "max_restarts")
    d = x.numel()
    if k >= d:
        raise ValueError(f"k must be below D = {d}, got {k}; k=None gives all {d}")
    if subspace is None:
        subspace = max(2 * k + 1, 60)
    require_positive_int(subspace, "subspace")
    if subspace < k + 2:
        raise ValueError(f"subspace must be at least k + 2 = {k + 2}, got {subspace}")
    if tol is None:
        tol = _tolerance(x)
    require_positive(tol, "tol")
    extent = _extent(which)
    if subspace >= d:
        nu = _sorted(torch.linalg.eigvals(jacobian(func, x, t)))
        return _sorted(nu[torch.from_numpy(np.argsort(-extent(nu.numpy()), kind="stable")[:k])])
    operator = JacobianOperator(at_time(func, t), x).T

    found = _search(operator, k, which, subspace, tol, max_restarts, seed=0)
    larger = min(d, 2 * subspace)
    try:
        control = _search(operator, 1, which, larger, max(tol, 1e-3), max_restarts, seed=1)
    except ConvergenceError as error:
        raise ConvergenceError(
            f"{k} eigenvalues converged, but the second search that guards against a miss did not: {error}",
            _sorted(torch.from_numpy(found)),
        ) from None
    if extent(control).max() > extent(found).max() + max(1e-2, 10 * tol) * np.abs(found).max():
        warnings.warn(
            f"a subspace of {subspace} missed the extreme eigenvalue near {control[0]:.4g}; the result comes from a "
            f"subspace of {larger}: ask for more eigenvalues or a larger subspace",
            MissedEigenvalueWarning,
            stacklevel=2,
        )
        found = _search(operator, k, which, larger, tol, max_restarts, seed=1)
    return _sorted(torch.from_numpy(found))


@full_float32()
def spectral_abscissa(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The spectral abscissa α = max Re ν of ∂func/∂x: the rate at which a small perturbation grows in the long run.

    Arguments and errors as in `eigenvalues`.
    """
    return eigenvalues(func, x, t, _few(x), "LR").real.max().item()


@full_float32()
def spectral_radius(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The spectral radius max |ν| of ∂func/∂x. Arguments and errors as in `eigenvalues`."""
    return eigenvalues(func, x, t, _few(x), "LM").abs().max().item()


@full_float32()
def log_norm(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The logarithmic norm μ₂(J) = λ_max((J + Jᵀ)/2) of J = ∂func/∂x: the fastest initial growth in any direction.

    Two trajectories satisfy ‖x − y‖ <= e^{μt} ‖x₀ − y₀‖, where μ is the maximum of μ₂ over the segments between them.
    μ₂ >= α. If μ₂ > 0 > α, some perturbations first grow and then decay.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x: one sample, (1, *S).
        t: depth time.

    Raises:
        ValueError: as `JacobianOperator`.
        ConvergenceError: the Lanczos iteration did not converge.

    Source: Dahlquist 1958; Söderlind 2006, The logarithmic norm.
    """
    require_sample(x)
    if x.numel() <= DENSE:
        j = jacobian(func, x, t)
        return float(torch.linalg.eigvalsh((j + j.T) / 2).max())
    operator = JacobianOperator(at_time(func, t), x)
    return _symmetric(operator, lambda v: (operator.matvec(v) + operator.rmatvec(v)) / 2, x)


@full_float32()
def spectral_norm(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The largest singular value of ∂func/∂x: the largest factor by which a block can stretch a small perturbation.

    Arguments and errors as in `log_norm`.
    """
    require_sample(x)
    if x.numel() <= DENSE:
        return float(torch.linalg.matrix_norm(jacobian(func, x, t), 2))
    operator = JacobianOperator(at_time(func, t), x)
    return math.sqrt(max(_symmetric(operator, lambda v: operator.rmatvec(operator.matvec(v)), x), 0.0))


def _search(
    operator: LinearOperator, k: int, which: str, subspace: int, tol: float, max_restarts: int, seed: int
) -> NDArray[Any]:
    """The k extreme eigenvalues by ARPACK, with checked residuals; the seeded start makes the result repeatable."""
    start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(operator.dtype)
    scale = float(np.linalg.norm(operator.matvec(start)))
    if scale == 0.0:  # J = 0, which ARPACK refuses
        return np.zeros(k, dtype=np.complex128)
    try:
        with _one_blas_thread():
            values, vectors = eigs(operator, k=k, which=which, ncv=subspace, tol=tol, maxiter=max_restarts, v0=start)
    except ArpackNoConvergence as error:
        best = _sorted(torch.from_numpy(np.asarray(error.eigenvalues, dtype=np.complex128)))
        raise ConvergenceError(
            f"{len(best)} of {k} eigenvalues converged in {max_restarts} restarts of a subspace of {subspace}; "
            "raise subspace, max_restarts or tol (those that converged are in this error's best)",
            best,
        ) from None
    found: NDArray[Any] = np.asarray(values, dtype=np.complex128)
    with np.errstate(invalid="ignore", divide="ignore"):  # a vector of zeros gives NaN, which fails the residual check
        # if M is far from normal, ARPACK returns vectors as short as 1e-15
        vectors = vectors / np.linalg.norm(vectors, axis=0)
    products = np.stack([operator.matvec(v.real) + 1j * operator.matvec(v.imag) for v in vectors.T], axis=1)
    residuals = np.linalg.norm(products - vectors * values, axis=0)
    norm = max(float(np.linalg.norm(products, axis=0).max()), scale / math.sqrt(len(start)))  # a lower bound of ‖M‖
    floor = max(1e3 * tol, 1e-8) * norm
    if not (residuals <= floor).all():
        raise ConvergenceError(
            f"an eigenpair's residual must be at most {floor:.1e}, got {residuals.max():.1e}; the Jacobian may be too "
            "far from normal (eigenvalues(..., k=None) uses the dense matrix), the field not smooth at x, or tol too "
            "loose (the eigenvalues that pass are in this error's best)",
            _sorted(torch.from_numpy(found[residuals <= floor])),
        )
    return found


def _symmetric(operator: JacobianOperator, product: Callable[[NDArray[Any]], NDArray[Any]], x: Tensor) -> float:
    """The largest eigenvalue of a symmetric operator by Lanczos' method."""
    d = operator.shape[0]
    symmetric = LinearOperator((d, d), matvec=product, dtype=operator.dtype)
    start = np.random.default_rng(0).standard_normal(d).astype(operator.dtype)
    if not np.any(product(start)):
        return 0.0
    try:
        with _one_blas_thread():
            values = eigsh(
                symmetric, k=1, which="LA", ncv=min(d, 40), tol=_tolerance(x), v0=start, return_eigenvectors=False
            )
    except ArpackNoConvergence:
        raise ConvergenceError(
            f"the largest eigenvalue of a symmetric operator of D = {d} did not converge; pass x in float64"
        ) from None
    return float(values[0])


def _one_blas_thread() -> Any:
    """A context in which SciPy's BLAS has one thread; between products its threads would compete with torch's."""
    return threadpool_limits(1, user_api="blas")


def _few(x: Tensor) -> int | None:
    """How many eigenvalues to compute if one is needed: all of a small matrix, else 4."""
    return None if isinstance(x, Tensor) and x.numel() <= DENSE else 4


def _tolerance(x: Tensor) -> float:
    """The relative accuracy of ARPACK in x's dtype."""
    return 1e-10 if x.dtype == torch.float64 else 1e-5


def _extent(which: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """How far out an eigenvalue lies, for each kind of search."""
    extents: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "LR": np.real,
        "SR": lambda nu: -np.real(nu),
        "LM": np.abs,
        "LI": lambda nu: np.abs(np.imag(nu)),
    }
    return extents[which]


def _sorted(nu: Tensor) -> Tensor:
    """Complex eigenvalues by descending real part; of a conjugate pair, first the one above the axis."""
    nu = nu.to(torch.complex128)
    order = np.lexsort((-nu.imag.numpy(), -nu.real.numpy()))
    return nu[torch.from_numpy(order)]
