"""How parameters move."""

__all__: list[str] = []
