"""A recurrent layer with `torch.nn.GRU`'s interface, times of each observation and masks of missing values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dampode._checks import require_instance, require_positive_int
from dampode.sequence.cell import DampedCell
from dampode.sequence.forgetting import TimeScales
from dampode.sequence.running import at_last, run, run_against_time
from dampode.sequence.steps import Steps, last_observed

__all__ = ["DampedRNN"]


class DampedRNN(nn.Module):
    """Layers of `DampedCell` over sequences: `torch.nn.GRU`'s interface, plus times and masks.

    Each state is computed from the state after the last observation, so it does not depend on how a gap is cut by steps
    without an observation. With the default cells all decays of a layer are computed at once.

    Args:
        input_size: number of values per observation, C.
        hidden_size: number of channels of the state, H.
        time_scales: (shortest, longest) time 1/λ at the start, in the unit of the data's times.
        num_layers: number of layers. A layer above the first reads the states of the layer below.
        batch_first: whether x is (N, T, C), as here by default; else (T, N, C), and times and mask likewise.
        bidirectional: whether a second cell per layer runs against time. Outputs then have 2H channels.
        dropout: probability with which outputs below the last layer are set to 0 in training.
        masked: whether the first layer reads a mask per value. A mask (N, T, C) needs this.
        cell: called as cell(inputs, hidden_size, masked) for each cell, for other parts; None makes
            ``DampedCell(inputs, hidden_size, time_scales, masked=masked)``.

    Raises:
        ValueError, TypeError: a size is no positive int, or what `DampedCell` and `torch.nn.Dropout` raise.

    Source: Yang et al. 2020, Eq. 8.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        time_scales: TimeScales,
        num_layers: int = 1,
        *,
        batch_first: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        masked: bool = False,
        cell: Callable[[int, int, bool], DampedCell] | None = None,
    ) -> None:
        super().__init__()
        require_positive_int(num_layers, "num_layers")
        for name, value in (("batch_first", batch_first), ("bidirectional", bidirectional)):
            require_instance(value, bool, name)
        self.input_size, self.hidden_size, self.masked = input_size, hidden_size, masked
        self.batch_first, self.bidirectional = batch_first, bidirectional
        directions = 1 + bidirectional
        self.cells = nn.ModuleList()
        for layer in range(num_layers):
            inputs, reads_mask = (hidden_size * directions, False) if layer else (input_size, masked)
            for _ in range(directions):
                if cell is None:
                    made = DampedCell(inputs, hidden_size, time_scales, masked=reads_mask)
                else:
                    made = cell(inputs, hidden_size, reads_mask)
                require_instance(made, DampedCell, "what cell(inputs, hidden_size, masked) returns")
                self.cells.append(made)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor | PackedSequence,
        times: Tensor | None = None,
        mask: Tensor | None = None,
        h0: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Outputs and the last states.

        Args:
            x: values, (N, T, C), or a `PackedSequence`, whose times and mask are padded tensors. Values that the mask
                calls missing, or at padding, are ignored.
            times: (N, T) or (T,), nondecreasing; NaN at the end of a row pads it. None counts steps: 0, 1, 2, ...
            mask: True or 1 where a value is observed, (N, T, C), or (N, T) for whole observations; None if all are.
            h0: the states at the first time of each direction, (layers · directions, N, H); None is 0.

        Returns:
            The states of the last layer, (N, T, directions · H), 0 at padding and packed if x is; and the last state of
            each cell, (layers · directions, N, H).

        Raises:
            ValueError, TypeError: as `Steps.of`; or h0 does not fit.
        """
        if isinstance(x, PackedSequence):
            return self._packed(x, times, mask, h0)
        require_instance(x, Tensor, "x")
        if not self.batch_first:
            x = x.transpose(0, 1)
            times, mask = (
                value.transpose(0, 1) if value is not None and value.ndim > 1 else value for value in (times, mask)
            )
        steps, layers = self._layers(x, times, mask, h0)
        outputs = torch.cat(layers[-1 - self.bidirectional :], 2)
        outputs = torch.where(steps.padding[:, :, None], 0.0, outputs)
        last = torch.stack(
            [states[:, 0] if self.bidirectional and n % 2 else states[:, -1] for n, states in enumerate(layers)]
        )
        return outputs if self.batch_first else outputs.transpose(0, 1), last

    def states_at(
        self,
        query: Tensor,
        x: Tensor,
        times: Tensor | None = None,
        mask: Tensor | None = None,
        h0: Tensor | None = None,
    ) -> Tensor:
        """The state of the last layer at any times, decayed from the last observation at or before each of them.

        Args:
            query: (N, Q), none before the first time of its row.
            x: values, (N, T, C); they come batch first, whatever ``batch_first`` says.
            times: as `forward` takes them.
            mask: as `forward` takes it.
            h0: as `forward` takes it.

        Returns:
            (N, Q, H).

        Raises:
            ValueError: the layer is bidirectional, a query is before the first time, not finite or of the wrong shape;
                or as `forward`.
        """
        if self.bidirectional:
            raise ValueError(
                "a state between observations may not read later ones, got a bidirectional layer; make it with "
                "bidirectional=False"
            )
        steps, layers = self._layers(x, times, mask, h0)
        require_instance(query, Tensor, "query")
        query = query.to(steps.times)
        if query.ndim != 2 or len(query) != len(x):
            raise ValueError(f"query must be (N, Q) with N = {len(x)}, got shape {tuple(query.shape)}")
        if not torch.compiler.is_compiling() and not bool((query >= steps.times[:, :1]).all() & query.isfinite().all()):
            raise ValueError(
                "query times must be finite and not before the first time of their row, where the state begins; give "
                f"later ones: query {query.tolist()}, first times {steps.times[:, 0].tolist()}"
            )
        place = torch.searchsorted(steps.times.detach().contiguous(), query.detach().contiguous(), right=True)
        after = torch.cat((steps.observed, steps.observed[:, :1]), 1)  # one more step, for the times after the last
        last = last_observed(after).gather(1, place)
        begin, u = at_last(steps.times, last, steps.times[:, 0]), at_last(steps.inputs, last)
        states = at_last(layers[-1], last, None if h0 is None else h0[-1])
        cell = self.cells[-1]
        assert isinstance(cell, DampedCell)
        decayed: Tensor = cell.decay(states.flatten(0, 1), (query - begin).flatten(), u.flatten(0, 1), begin.flatten())
        at_query: Tensor = decayed.unflatten(0, query.shape)
        return at_query

    def _layers(
        self, x: Tensor, times: Tensor | None, mask: Tensor | None, h0: Tensor | None
    ) -> tuple[Steps, list[Tensor]]:
        """The steps of the last layer, and the states of every cell, (N, T, H), in the order of time."""
        steps = Steps.of(x, times, mask, self.input_size, self.masked)
        shape = (len(self.cells), len(x), self.hidden_size)
        h0 = x.new_zeros(shape) if h0 is None else h0
        if h0.shape != shape:
            raise ValueError(f"h0 must be (layers * directions, N, H) = {shape}, got shape {tuple(h0.shape)}")
        states: list[Tensor] = []
        directions = 1 + self.bidirectional
        for n, cell in enumerate(self.cells):
            assert isinstance(cell, DampedCell)
            if n and n % directions == 0:
                steps = steps._replace(inputs=self.dropout(torch.cat(states[-directions:], 2)))
            states.append(run_against_time(cell, steps, h0[n]) if n % directions else run(cell, steps, h0[n]))
        return steps, states

    def _packed(
        self, x: PackedSequence, times: Tensor | None, mask: Tensor | None, h0: Tensor | None
    ) -> tuple[PackedSequence, Tensor]:
        """`forward` of a packed sequence."""
        padded, lengths = pad_packed_sequence(x, self.batch_first)
        dim = 1 if self.batch_first else 0
        steps = torch.arange(padded.shape[dim], dtype=torch.float64, device=padded.device)
        rows = steps if times is None else times.to(padded.device, torch.float64)
        if rows.ndim == 1:
            rows = rows.expand(len(lengths), -1) if dim else rows[:, None].expand(-1, len(lengths))
        number, length = (steps, lengths[:, None]) if dim else (steps[:, None], lengths)
        rows = torch.where(number < length.to(padded.device), rows, torch.nan)
        outputs, last = self(padded, rows, mask, h0)
        return pack_padded_sequence(outputs, lengths, self.batch_first, enforce_sorted=False), last
