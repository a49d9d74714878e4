"""Recurrent layers for irregular time series: a state that decays exactly between observations."""

from dampode.sequence.cell import DampedCell, RestState
from dampode.sequence.forgetting import InputGated, learned_time_scales, state_gated_time_scales
from dampode.sequence.recurrence import linear_recurrence
from dampode.sequence.rnn import DampedRNN
from dampode.sequence.scan import DampedScan, ScanBlock
from dampode.sequence.triplets import Scaling, Sequences, Triplets, time_since_observed

__all__ = [
    "DampedCell",
    "DampedRNN",
    "DampedScan",
    "InputGated",
    "RestState",
    "Scaling",
    "ScanBlock",
    "Sequences",
    "Triplets",
    "learned_time_scales",
    "linear_recurrence",
    "state_gated_time_scales",
    "time_since_observed",
]
