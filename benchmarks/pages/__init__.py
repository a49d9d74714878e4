"""Pages that are rendered from benchmarks/results: ``python -m benchmarks.pages`` writes them."""
