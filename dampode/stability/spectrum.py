"""Numbers read off a field's Jacobian: eigenvalues, abscissa, radius, log-norm, norm; matrix-free where it is large."""

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
from dampode.stability.jacobian_operator import (
    ConvergenceError,
    Field,
    JacobianOperator,
    at_time,
    jacobian,
    require_sample,
)

Which = Literal["LR", "SR", "LM", "LI"]
DENSE = 256
"""Up to this D the numbers of one matrix are computed from the matrix itself, which is faster and exact."""


class MissedEigenvalueWarning(UserWarning):
    """A first search missed the extreme eigenvalue; the result given is that of the larger search that found it."""


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

    The searches run on M = Jᵀ, whose eigenvalues are those of J and whose products, one backward pass each, cost less
    than half. Every pair is checked: ‖Mv − νv‖ / ‖v‖ must be small against ‖M‖, as far as the products made show it; ν
    is then an eigenvalue of a matrix that close to J, which for a J far from normal can lie far from those of J. A
    Krylov space can miss the rightmost eigenvalue, so the extreme one is searched again in a subspace twice as large
    from another start; where that finds one further out, the whole search is repeated there and a
    `MissedEigenvalueWarning` says so.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x: one sample, (1, *S), D numbers.
        t: depth time.
        k: how many, below D; None gives all D from the dense matrix.
        which: "LR" the rightmost, "SR" the leftmost, "LM" the largest in modulus, "LI" in imaginary part.
        tol: relative accuracy asked of ARPACK; None: 1e-10 in float64, 1e-5 in float32.
        subspace: dimension of the Krylov space, at least k + 2; None: max(2k + 1, 60). Where that is all of D or more,
            the eigenvalues are those of the dense matrix.
        max_restarts: how often a search may restart.

    Returns:
        (k,) complex, by descending real part; detached and on the CPU.

    Raises:
        ValueError: k or subspace does not fit D, ``which`` is another word; what `JacobianOperator` refuses.
        ConvergenceError: not all k converged (those that did are in ``best``), the second search did not, or a
            residual is too large.

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
            f"a subspace of {subspace} missed the extreme eigenvalue near {control[0]:.4g}; the result is that of a "
            f"subspace of {larger}: ask for more eigenvalues or a larger subspace",
            MissedEigenvalueWarning,
            stacklevel=2,
        )
        found = _search(operator, k, which, larger, tol, max_restarts, seed=1)
    return _sorted(torch.from_numpy(found))


def spectral_abscissa(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The spectral abscissa α = max Re ν of ∂func/∂x: the rate at which a small perturbation grows in the long run.

    Arguments and errors as in `eigenvalues`.
    """
    return eigenvalues(func, x, t, _few(x), "LR").real.max().item()


def spectral_radius(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The spectral radius max |ν| of ∂func/∂x. Arguments and errors as in `eigenvalues`."""
    return eigenvalues(func, x, t, _few(x), "LM").abs().max().item()


def log_norm(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The logarithmic norm μ₂(J) = λ_max((J + Jᵀ)/2) of J = ∂func/∂x: the fastest growth at once, in any direction.

    Two trajectories separate by no more than ‖x − y‖ <= e^{μt} ‖x₀ − y₀‖, μ the maximum over the segments between
    them. μ₂ >= α; where μ₂ > 0 > α a perturbation first grows and then decays.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x: one sample, (1, *S).
        t: depth time.

    Raises:
        ValueError: what `JacobianOperator` refuses.
        ConvergenceError: the Lanczos iteration did not converge.

    Source: Dahlquist 1958; Söderlind 2006, The logarithmic norm.
    """
    require_sample(x)
    if x.numel() <= DENSE:
        j = jacobian(func, x, t)
        return float(torch.linalg.eigvalsh((j + j.T) / 2).max())
    operator = JacobianOperator(at_time(func, t), x)
    return _symmetric(operator, lambda v: (operator.matvec(v) + operator.rmatvec(v)) / 2, x)


def spectral_norm(func: Field, x: Tensor, t: float = 0.0) -> float:
    """The largest singular value of ∂func/∂x: of a block, the most by which its map can stretch a perturbation.

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
    """The k extreme eigenvalues by ARPACK with their residuals checked; a seeded start makes the result repeatable."""
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
    with np.errstate(invalid="ignore", divide="ignore"):  # a vector of zeros gives NaN, which is no small residual
        vectors = vectors / np.linalg.norm(vectors, axis=0)  # of a matrix far from normal they come as short as 1e-15
    products = np.stack([operator.matvec(v.real) + 1j * operator.matvec(v.imag) for v in vectors.T], axis=1)
    residuals = np.linalg.norm(products - vectors * values, axis=0)
    norm = max(float(np.linalg.norm(products, axis=0).max()), scale / math.sqrt(len(start)))  # of M, from below
    floor = max(1e3 * tol, 1e-8) * norm
    if not (residuals <= floor).all():
        raise ConvergenceError(
            f"an eigenpair's residual must be at most {floor:.1e}, got {residuals.max():.1e}; the Jacobian may be too "
            "far from normal (eigenvalues(..., k=None) takes the dense matrix), the field not smooth at x, or tol too "
            "loose (the eigenvalues that pass are in this error's best)",
            _sorted(torch.from_numpy(found[residuals <= floor])),
        )
    return found


def _symmetric(operator: JacobianOperator, product: Callable[[NDArray[Any]], NDArray[Any]], x: Tensor) -> float:
    """The largest eigenvalue of a symmetric product by Lanczos' method."""
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
    """A context in which SciPy's BLAS has one thread: between products its threads would spin against torch's."""
    return threadpool_limits(1, user_api="blas")


def _few(x: Tensor) -> int | None:
    """How many eigenvalues to ask for where one is wanted: all of a small matrix."""
    return None if isinstance(x, Tensor) and x.numel() <= DENSE else 4


def _tolerance(x: Tensor) -> float:
    """The relative accuracy asked of ARPACK in x's dtype."""
    return 1e-10 if x.dtype == torch.float64 else 1e-5


def _extent(which: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """How far out an eigenvalue lies, for each of the four searches."""
    extents: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "LR": np.real,
        "SR": lambda nu: -np.real(nu),
        "LM": np.abs,
        "LI": lambda nu: np.abs(np.imag(nu)),
    }
    return extents[which]


def _sorted(nu: Tensor) -> Tensor:
    """Complex eigenvalues by descending real part; of a pair, the one above the axis first."""
    nu = nu.to(torch.complex128)
    order = np.lexsort((-nu.imag.numpy(), -nu.real.numpy()))
    return nu[torch.from_numpy(order)]
