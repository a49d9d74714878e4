"""How results become docs/paper.md: statistics over runs, claims, tables and figures."""
