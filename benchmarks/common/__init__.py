"""What benchmarks share: problems, rival solvers, the search for a tolerance, the cost figure, the result file."""
