"""The adaptive implicit method: for a vector field that is itself stiff."""

__all__: list[str] = []
