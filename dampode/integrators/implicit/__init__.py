"""The adaptive implicit method: for a vector field that is itself stiff."""
