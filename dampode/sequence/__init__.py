"""Recurrent layers for irregular time series: a state that decays exactly between observations."""

from dampode.sequence.recurrence import linear_recurrence
from dampode.sequence.scan import DampedScan, ScanBlock
from dampode.sequence.triplets import Scaling, Sequences, Triplets, time_since_observed

__all__ = [
    "DampedScan",
    "ScanBlock",
    "Scaling",
    "Sequences",
    "Triplets",
    "linear_recurrence",
    "time_since_observed",
]
