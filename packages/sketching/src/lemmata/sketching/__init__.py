"""Randomness as an algorithm."""

__all__: list[str] = []
