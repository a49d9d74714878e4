"""Recurrent layers and rivals with one reading of their states, for tasks on irregular series."""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor, nn

from dampode.damping import Constant, Damping
from dampode.sequence import DampedCell, DampedRNN, InputGated, ScanBlock, state_gated_time_scales

__all__ = ["ENCODERS", "Model", "equal_size"]

TimeScales = tuple[float, float]


def gaps_of(times: Tensor) -> Tensor:
    """The time since the step before, (N, T); 0 at padding."""
    return times.diff(dim=1, prepend=times[:, :1]).nan_to_num(0.0).float()


class Damped(nn.Module):
    """A `DampedRNN` with one of its dampings."""

    def __init__(self, inputs: int, hidden: int, scales: TimeScales, kind: str = "learned") -> None:
        super().__init__()
        dampings: dict[str, Callable[[], TimeScales | Damping | InputGated]] = {
            "learned": lambda: scales,
            "off": lambda: Constant(0.0),
            "input": lambda: InputGated(inputs, hidden, scales),
            "state": lambda: state_gated_time_scales(scales, hidden),
            "steps": lambda: (1.0, 50.0),
        }
        self.ignores_times = kind == "steps"
        self.rnn = DampedRNN(inputs, hidden, scales, cell=lambda i, h, masked: DampedCell(i, h, dampings[kind]()))

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        number = torch.arange(x.shape[1], dtype=times.dtype)
        states: Tensor = self.rnn(x, torch.where(times.isnan(), times, number) if self.ignores_times else times)[0]
        return states


class Scan(nn.Module):
    """Two `ScanBlock`s on a linear map of the inputs."""

    def __init__(self, inputs: int, hidden: int, scales: TimeScales, dropout: float, oscillating: bool) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Linear(inputs, hidden), nn.Dropout(dropout))
        self.blocks = nn.ModuleList(
            ScanBlock(hidden, scales, dropout=dropout, oscillating=oscillating) for _ in range(2)
        )

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        h: Tensor = self.widen(x)
        for block in self.blocks:
            h = block(h, times)
        return h


class GRU(nn.Module):
    """`torch.nn.GRU`, without times or with the gap before each step as one more input."""

    def __init__(self, inputs: int, hidden: int, scales: TimeScales, reads_gaps: bool) -> None:
        super().__init__()
        self.reads_gaps = reads_gaps
        self.gru = nn.GRU(inputs + reads_gaps, hidden, batch_first=True)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        states: Tensor = self.gru(torch.cat((x, gaps_of(times)[:, :, None]), 2) if self.reads_gaps else x)[0]
        return states


class NcpsCfC(nn.Module):
    """CfC of ncps; its time spans (N, T) do not broadcast in a batch, so they are repeated for every channel."""

    def __init__(self, inputs: int, hidden: int, scales: TimeScales) -> None:
        super().__init__()
        from ncps.torch import CfC

        self.cfc = CfC(inputs, hidden, backbone_units=64)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        spans = gaps_of(times)[:, :, None].expand(-1, -1, self.cfc.state_size)
        states: Tensor = self.cfc(x, timespans=spans)[0]
        return states


class S5Pytorch(nn.Module):
    """Two S5 layers of s5-pytorch with a step per time, each with GELU and a shortcut."""

    def __init__(self, inputs: int, hidden: int, scales: TimeScales) -> None:
        super().__init__()
        from s5 import S5

        self.widen = nn.Linear(inputs, hidden)
        self.layers = nn.ModuleList(S5(hidden) for _ in range(2))

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        h: Tensor = self.widen(x)
        for layer in self.layers:
            h = h + nn.functional.gelu(layer(h, step_scale=gaps_of(times)))
        return h


ENCODERS: dict[str, Callable[[int, int, TimeScales], nn.Module]] = {
    "DampedRNN": Damped,
    "DampedScan": lambda inputs, hidden, scales: Scan(inputs, hidden, scales, dropout=0.3, oscillating=False),
    "DampedScan, oscillating": lambda inputs, hidden, scales: Scan(inputs, hidden, scales, 0.0, oscillating=True),
    "GRU with gaps": lambda inputs, hidden, scales: GRU(inputs, hidden, scales, reads_gaps=True),
    "GRU": lambda inputs, hidden, scales: GRU(inputs, hidden, scales, reads_gaps=False),
    "ncps CfC": NcpsCfC,
    "s5-pytorch": S5Pytorch,
    "DampedRNN, λ = 0": lambda inputs, hidden, scales: Damped(inputs, hidden, scales, "off"),
    "DampedRNN, times ignored": lambda inputs, hidden, scales: Damped(inputs, hidden, scales, "steps"),
    "DampedRNN, λ gated by input": lambda inputs, hidden, scales: Damped(inputs, hidden, scales, "input"),
    "DampedRNN, λ gated by state": lambda inputs, hidden, scales: Damped(inputs, hidden, scales, "state"),
}
"""Name -> (inputs, hidden, time scales) -> a module (x (N, T, C), times (N, T)) -> states (N, T, hidden)."""


def equal_size(name: str, inputs: int, hidden: int) -> int:
    """The fewest channels with which an encoder has the parameters of a `DampedRNN` of ``hidden`` channels."""

    def parameters(model: str, size: int) -> int:
        return sum(p.numel() for p in ENCODERS[model](inputs, size, (1.0, 10.0)).parameters())

    wanted = parameters("DampedRNN", hidden)
    return next(size for size in count(8) if parameters(name, size) >= wanted)


class Model(nn.Module):
    """An encoder whose states are read by their mean, their maximum and the last one, and by two dense layers."""

    def __init__(self, encoder: nn.Module, hidden: int, static: int, outputs: int) -> None:
        super().__init__()
        self.encoder, self.norm, self.drop = encoder, nn.LayerNorm(hidden), nn.Dropout(0.1)
        self.head = nn.Sequential(
            nn.Linear(3 * hidden + static, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor, times: Tensor, static: Tensor) -> Tensor:
        seen = ~times.isnan()[:, :, None]
        count = seen.sum(1)
        h = self.norm(self.encoder(self.drop(x), times))
        last = h.gather(1, (count - 1)[:, :, None].expand(-1, -1, h.shape[2]))[:, 0]
        pooled = (h * seen).sum(1) / count, torch.where(seen, h, -torch.inf).amax(1), last, static
        out: Tensor = self.head(torch.cat(pooled, 1))
        return out
