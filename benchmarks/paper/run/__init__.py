"""How one job is run: its network is trained, measured, and written to a result file."""
