"""Styles that tell curves apart without color."""

__all__ = ["DASHES", "MARKERS"]

MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")
