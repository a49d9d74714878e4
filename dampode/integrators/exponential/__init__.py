"""The adaptive exponential method: damping exactly, f to a tolerance."""
