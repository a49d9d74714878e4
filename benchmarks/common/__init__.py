"""What the benchmarks share: problems, solvers, the cost figure, the record of a result."""
