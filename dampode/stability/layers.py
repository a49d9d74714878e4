"""How the damped blocks of a network change perturbations: the measured growth of an error, and a report by block."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from dampode._checks import (
    as_seed,
    require_instance,
    require_logits,
    require_positive,
    require_positive_int,
    require_state,
)
from dampode._precision import full_float32
from dampode.block import DampedBlock, Transition
from dampode.stability.jacobian_operator import require_eval, require_sample
from dampode.stability.spectrum import log_norm, spectral_abscissa, spectral_norm

__all__ = ["ErrorPropagation", "LayerReport", "LayerRow", "error_propagation", "layer_report"]


@dataclass(frozen=True)
class ErrorPropagation:
    """An error's norms before and after each of L blocks, for N samples; detached and on the CPU.

    Args:
        names: the blocks (damped blocks and transitions) in the order in which they run.
        before, after: ‖δx_n‖ and ‖δx_{n+1}‖, (L, N).
        state_before, state_after: ‖x_n‖ and ‖x_{n+1}‖ of the undisturbed run, (L, N).
    """

    names: tuple[str, ...]
    before: Tensor
    after: Tensor
    state_before: Tensor
    state_after: Tensor

    @property
    def growth(self) -> Tensor:
        """‖δx_{n+1}‖ / ‖δx_n‖, (L, N). It depends on the scale of the state, which a batch norm behind it ignores."""
        return self.after / self.before

    @property
    def relative_error(self) -> Tensor:
        """‖δx_{n+1}‖ / ‖x_{n+1}‖, (L, N). Rescaling the state does not change it."""
        return self.after / self.state_after

    @property
    def relative_growth(self) -> Tensor:
        """The factor by which a block multiplies ‖δx‖ / ‖x‖, (L, N)."""
        return self.growth * self.state_before / self.state_after


@full_float32()
def error_propagation(model: nn.Module, x: Tensor, delta: Tensor) -> ErrorPropagation:
    """Run a network on x and on x + δ, and measure the difference at every block (damped block or transition).

    Args:
        model: a network with `DampedBlock` or `Transition` layers, such as a plain ResNet, in eval mode.
        x: inputs, (N, *S).
        delta: perturbations, (N, *S); none may be 0.

    Raises:
        ValueError: the shapes differ, a value is not finite, a δ is 0, batch norm or dropout is in train mode, or no
            layer is a block.
    """
    require_state(x)
    require_instance(delta, Tensor, "delta")
    if delta.shape != x.shape:
        raise ValueError(f"delta must have x's shape {tuple(x.shape)}, got {tuple(delta.shape)}")
    if not bool(torch.isfinite(x).all() & torch.isfinite(delta).all()):
        raise ValueError("x and delta must be finite, got NaN or infinite entries")
    if bool((delta.flatten(1).abs().amax(1) == 0).any()):
        raise ValueError("no delta may be 0, got a delta whose entries are all 0; growth is a ratio to its norm")
    clean, moved = _blocks(model, x), _blocks(model, x + delta)

    def norms(pairs: Iterator[Tensor]) -> Tensor:
        return torch.stack([value.flatten(1).norm(dim=1).cpu() for value in pairs])

    return ErrorPropagation(
        tuple(ran.name for ran in clean),
        norms(b.x - a.x for a, b in zip(clean, moved, strict=True)),
        norms(b.out - a.out for a, b in zip(clean, moved, strict=True)),
        norms(ran.x for ran in clean),
        norms(ran.out for ran in clean),
    )


@dataclass(frozen=True)
class LayerRow:
    """One damped block of a network at one input. α is the spectral abscissa, μ₂ the logarithmic norm.

    Args:
        name: the block's name in the model.
        dimension: D of its state.
        lam: λ_n, or its mean if it has several values.
        abscissa, abscissa_undamped: α of −λx + ρ f(x) and of f(x), at the block's input.
        log_norm, log_norm_undamped: μ₂ of the same two fields.
        gain: the largest singular value of the block's map, the largest factor by which it can stretch a small
            perturbation.
        growth_random, growth_adversarial: ‖δx_{n+1}‖ / ‖δx_n‖ for errors that start at the input of the network.
        relative_error_adversarial: ‖δx_{n+1}‖ / ‖x_{n+1}‖ of the adversarial error.
    """

    name: str
    dimension: int
    lam: float
    abscissa: float
    abscissa_undamped: float
    log_norm: float
    log_norm_undamped: float
    gain: float
    growth_random: float
    growth_adversarial: float
    relative_error_adversarial: float


@dataclass(frozen=True)
class LayerReport:
    """The rows of `layer_report`, in the order in which the blocks run."""

    rows: tuple[LayerRow, ...]

    def table(self) -> str:
        """A Markdown table with one line per damped block."""
        heads = (
            "| block | D | λ | α | α undamped | μ₂ | μ₂ undamped | σ_max "
            "| growth, random | growth, adversarial | ‖δx_{n+1}‖/‖x_{n+1}‖, adversarial |"
        )
        lines = [heads, "|" + "---|" * 11]
        for row in self.rows:
            numbers = [getattr(row, field.name) for field in fields(row)[2:]]
            lines.append("| " + " | ".join([row.name, str(row.dimension), *(f"{v:.3g}" for v in numbers)]) + " |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The rows as JSON."""
        return json.dumps({"rows": [asdict(row) for row in self.rows]}, indent=2, ensure_ascii=False)


@full_float32()
def layer_report(model: nn.Module, x: Tensor, *, eps: float = 2 / 255, draws: int = 8, seed: int = 0) -> LayerReport:
    """One row per flow: λ, abscissa and log-norm with and without damping, gain, measured growth of errors.

    The entries of the random errors are ±ε. The adversarial error is ε times the sign of the gradient of the margin
    between the runner-up class and the top class. That is FGSM (Eq. 19) with the margin in place of the loss, whose
    gradient may vanish.

    Args:
        model: a classifier with `DampedBlock` layers, in eval mode: (N, *S) -> (N, classes).
        x: one input, (1, *S).
        eps: size of the errors at the input, > 0.
        draws: number of random errors; growth_random is their root mean square.
        seed: seed of the random errors.

    Returns:
        The report. It costs a few hundred to a thousand Jacobian products per block.

    Raises:
        ValueError: x is a batch or not finite, batch norm or dropout is in train mode, or no layer is a `DampedBlock`.
        TypeError: model is not a module, x not a floating tensor, or seed not an int.
        ConvergenceError: an eigenvalue did not converge.

    Source: Yang et al. 2020, Sec. 3.4, whose argument this measures.
    """
    require_sample(x)
    require_positive(eps, "eps")
    require_positive_int(draws, "draws")
    generator = torch.Generator("cpu").manual_seed(as_seed(seed))
    blocks = _blocks(model, x)
    if not any(isinstance(ran.block, DampedBlock) for ran in blocks):
        raise ValueError("the model must have DampedBlock layers, got none; wrap its residual branches in DampedBlock")
    signs = torch.randint(0, 2, (draws, *x.shape[1:]), generator=generator, device="cpu").to(x) * 2 - 1
    random = error_propagation(model, x.expand_as(signs), eps * signs)
    random_growth = random.after.square().mean(1).sqrt() / random.before.square().mean(1).sqrt()
    adversarial = error_propagation(model, x, eps * _towards_runner_up(model, x))
    return LayerReport(
        tuple(
            _row(
                ran.name,
                ran.block,
                ran.x,
                random_growth[n].item(),
                adversarial.growth[n].item(),
                adversarial.relative_error[n].item(),
            )
            for n, ran in enumerate(blocks)
            if isinstance(ran.block, DampedBlock)
        )
    )


@dataclass(frozen=True)
class _Ran:
    """One block of a run: its name, module, input state and output state."""

    name: str
    block: nn.Module
    x: Tensor
    out: Tensor


def _blocks(model: nn.Module, x: Tensor) -> list[_Ran]:
    """Every `DampedBlock` and `Transition` of a model, in the order in which they run on x."""
    require_instance(model, nn.Module, "model")
    require_eval(model)
    ran: list[_Ran] = []
    with _watching(model, ran), torch.no_grad():
        model(x)
    if not ran:
        raise ValueError("the model must have DampedBlock layers, got none; wrap its residual branches in DampedBlock")
    return ran


@contextmanager
def _watching(model: nn.Module, ran: list[_Ran]) -> Iterator[None]:
    """Record every block that runs."""
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, DampedBlock | Transition):

            def note(block: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
                ran.append(_Ran(name, block, args[0].detach().clone(), out.detach().clone()))

            handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _row(
    name: str, block: DampedBlock, x: Tensor, random: float, adversarial: float, relative_error: float
) -> LayerRow:
    """The numbers of one block, at its input state x."""
    func, t0 = block.func, block.t_span[0]
    lam = func.lam(t0, x).detach()
    weight = torch.as_tensor(func.weight(lam, x), dtype=torch.float64, device="cpu").detach()
    plain = spectral_abscissa(func.f, x, t0), log_norm(func.f, x, t0)
    if lam.numel() == weight.numel() == 1 and weight.item() >= 0 and not func.damping.varies:
        alpha, mu = (weight.item() * value - lam.item() for value in plain)  # Eq. 18 shifts both alike
        damped = alpha, mu
    else:
        damped = spectral_abscissa(func, x, t0), log_norm(func, x, t0)
    return LayerRow(
        name=name,
        dimension=x.numel(),
        lam=lam.mean().item(),
        abscissa=damped[0],
        abscissa_undamped=plain[0],
        log_norm=damped[1],
        log_norm_undamped=plain[1],
        gain=spectral_norm(block, x),
        growth_random=random,
        growth_adversarial=adversarial,
        relative_error_adversarial=relative_error,
    )


def _towards_runner_up(model: nn.Module, x: Tensor) -> Tensor:
    """Signs of the gradient of the runner-up's logit minus the top logit, (1, *S)."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf).flatten(1)
        require_logits(logits, 1, 2)
        top, runner_up = logits.topk(2, dim=1).values[0]
        (gradient,) = torch.autograd.grad(runner_up - top, leaf)
    return gradient.sign()
