"""Optimisers that train whole networks."""

__all__: list[str] = []
