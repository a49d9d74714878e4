"""The tables and figures of the paper, row by row: python -m benchmarks.paper."""
