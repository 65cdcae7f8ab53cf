"""A state and its evolution."""

__all__: list[str] = []
