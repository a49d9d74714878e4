"""Benchmarks of dampode. Each is run as ``python -m benchmarks.NAME``; results lie under benchmarks/results/."""
