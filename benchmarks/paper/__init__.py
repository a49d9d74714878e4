"""The paper's tables, number by number: `plan` says what to run, `run` trains and measures, `render` writes the page.

- plan: the printed numbers, the networks, the protocols, and the jobs that a table needs
- run: trains and measures the network of one job
- results_file: the JSON file of one job, which `run` writes and `render` reads
- render: docs/paper.md and its figures
"""
