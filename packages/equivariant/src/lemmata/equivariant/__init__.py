"""Symmetry and geometry."""

__all__: list[str] = []
