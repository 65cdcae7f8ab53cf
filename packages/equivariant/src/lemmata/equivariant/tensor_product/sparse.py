"""Products along paths by their nonzero couplings alone."""

__all__: list[str] = []
