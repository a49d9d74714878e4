"""The adaptive exponential method: damping exactly, the rest to a tolerance."""
