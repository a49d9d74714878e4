"""What to run: the printed numbers, the networks, the protocols, and the jobs that a table or figure needs."""
