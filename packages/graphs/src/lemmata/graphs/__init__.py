"""Structure."""

__all__: list[str] = []
