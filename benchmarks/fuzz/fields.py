"""The vector fields of the random calls, and what a solve may do with each."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode.fields import VectorField

__all__ = ["FIELDS", "Kind"]

Rate = Callable[["Field", float | Tensor, Tensor], object]


@dataclass(frozen=True)
class Kind:
    """A kind of vector field.

    Args:
        rate: f(x, t), from the field's weights.
        coupled: whether a sample depends on the others.
        drawn: whether f draws random numbers.
        invalid: whether every solve must refuse it.
        lipschitz: of f; infinity if it is unknown.
        smooth: whether a reference can be computed.
        images: whether it needs states (N, C, H, W).
        pairs: whether it needs states whose last axis has two numbers.
    """

    rate: Rate
    coupled: bool = False
    drawn: bool = False
    invalid: bool = False
    lipschitz: float = 2.0
    smooth: bool = True
    images: bool = False
    pairs: bool = False

    def field(self, shape: tuple[int, ...], dtype: torch.dtype, r: random.Random) -> "Field":
        """A field of this kind for states of a shape."""
        return Field(self, shape, dtype, r)


class Field(VectorField):
    """A field of a kind, with random weights that act on the last axis of the state."""

    def __init__(self, kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, r: random.Random) -> None:
        super().__init__()
        self.kind = kind
        width = shape[-1] if len(shape) > 1 else 1
        self.inner = nn.Parameter(torch.randn(width, width, dtype=torch.float64) / max(width, 1) ** 0.5)
        self.outer = nn.Parameter(torch.randn(width, width, dtype=torch.float64) / max(width, 1) ** 0.5)
        channels = shape[1] if len(shape) == 4 else 1
        self.kernel = nn.Parameter(
            torch.randn(channels, channels, 3, 3, dtype=torch.float64) / (9 * max(channels, 1)) ** 0.5
        )
        self.strength = 10.0 ** r.randint(2, 6)
        self.omega = r.choice([1.0, 5.0, 40.0])
        self.edge = r.choice([0.9, 1.5, 3.0])
        if dtype.is_floating_point:
            self.to(dtype)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        return self.kind.rate(self, t, x)  # type: ignore[return-value]

    def mix(self, weight: Tensor, x: Tensor) -> Tensor:
        """A linear map of the last axis; of each number where the state is (N,)."""
        return x @ weight.T if x.ndim > 1 else x * weight[0, 0]


def _time(t: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=x.dtype, device=x.device)


def _linear(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return f.mix(f.inner, x)


def _mlp(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return f.mix(f.outer, torch.tanh(f.mix(f.inner, x)))


def _conv(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.tanh(F.conv2d(x, f.kernel, padding=1))


def _forced(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.tanh(f.mix(f.inner, x)) + torch.sin(f.omega * _time(t, x))


def _drive(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.cos(f.omega * _time(t, x)).expand_as(x)


def _stiff(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return f.strength * (torch.cos(_time(t, x)) - x)


def _stiff_nonlinear(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return f.strength * (torch.tanh(0.5 * f.mix(f.inner, x)) - x)


def _nan_beyond(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.sqrt(f.edge - x)


def _blows_up(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x * x


def _steps_in_time(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.floor(3 * _time(t, x)) - torch.tanh(x)


def _zero(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _itself(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x


def _detached(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.sin(x.detach())


def _energy_gradient(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        y = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
        energy = torch.log(torch.cosh(f.mix(f.inner.clone(), y))).sum()
        return -torch.autograd.grad(energy, y, create_graph=x.requires_grad)[0]


def _mean(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.mean(0, keepdim=True).expand_as(x)


def _attention(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    flat = x.reshape(len(x), -1)
    return (torch.softmax(flat @ flat.T, dim=1) @ flat).view_as(x) - x


def _coupled_later(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.where(_time(t, x) > 0.5, x.mean(0, keepdim=True), -x)


def _batch_norm(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.tanh((x - x.mean(0, keepdim=True)) / (x.std(0, correction=0, keepdim=True) + 0.1))


def _noise(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.tanh(x) + 0.1 * torch.randn_like(x)


def _dropout(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return F.dropout(torch.tanh(x) + 1, 0.5, training=True)


def _other_shape(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.unsqueeze(-1)


def _summed(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.sum()


def _other_dtype(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.dtype == torch.float64 else torch.float64)


def _integers(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.long()


def _complex(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return torch.complex(x.double(), x.double())


def _in_place(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    return x.mul_(0.5)


def _tuple(f: Field, t: float | Tensor, x: Tensor) -> object:
    return (x,)


def _nothing(f: Field, t: float | Tensor, x: Tensor) -> object:
    return None


def _number(f: Field, t: float | Tensor, x: Tensor) -> object:
    return 1.0


def _oscillator(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    """A pendulum driven from rest: f is 0 at t = 0 where x is 0."""
    y, v = x[..., :1], x[..., 1:]
    return torch.cat((v, torch.sin(f.omega * _time(t, x)) - torch.sin(y)), dim=-1)


def _van_der_pol(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    y, v = x[..., :1], x[..., 1:]
    return torch.cat((v, f.strength**0.5 * (1 - y * y) * v - y), dim=-1)


def _fast_and_slow(f: Field, t: float | Tensor, x: Tensor) -> Tensor:
    y, v = x[..., :1], x[..., 1:]
    return torch.cat((-y, f.strength * (torch.cos(y) - v)), dim=-1)


INF = float("inf")
FIELDS = {
    "linear": Kind(_linear),
    "mlp": Kind(_mlp),
    "conv": Kind(_conv, images=True),
    "forced": Kind(_forced),
    "drive": Kind(_drive, lipschitz=0.0),
    "stiff": Kind(_stiff, lipschitz=INF),
    "stiff, nonlinear": Kind(_stiff_nonlinear, lipschitz=INF),
    "pendulum from rest": Kind(_oscillator, pairs=True),
    "Van der Pol": Kind(_van_der_pol, lipschitz=INF, pairs=True),
    "fast and slow": Kind(_fast_and_slow, lipschitz=INF, pairs=True),
    "NaN beyond an edge": Kind(_nan_beyond, lipschitz=INF),
    "x squared": Kind(_blows_up, lipschitz=INF),
    "steps in time": Kind(_steps_in_time, smooth=False),
    "zero": Kind(_zero, lipschitz=0.0),
    "x itself": Kind(_itself),
    "detached": Kind(_detached),
    "gradient of an energy": Kind(_energy_gradient),
    "mean of samples": Kind(_mean, coupled=True),
    "attention over samples": Kind(_attention, coupled=True, lipschitz=INF),
    "mean of samples after t = 0.5": Kind(_coupled_later, coupled=True, smooth=False),
    "batch norm": Kind(_batch_norm, coupled=True, lipschitz=INF),
    "noise": Kind(_noise, drawn=True, smooth=False),
    "dropout": Kind(_dropout, drawn=True, smooth=False),
    "other shape": Kind(_other_shape, invalid=True, smooth=False),
    "summed": Kind(_summed, invalid=True, smooth=False),
    "other dtype": Kind(_other_dtype, invalid=True, smooth=False),
    "integers": Kind(_integers, invalid=True, smooth=False),
    "complex": Kind(_complex, invalid=True, smooth=False),
    "in place": Kind(_in_place, invalid=True, smooth=False),
    "a tuple": Kind(_tuple, invalid=True, smooth=False),
    "None": Kind(_nothing, invalid=True, smooth=False),
    "a number": Kind(_number, invalid=True, smooth=False),
}
"""Name -> kind."""
