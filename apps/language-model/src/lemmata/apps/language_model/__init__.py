"""Train a small language model on your own text, and compare optimisers on it honestly."""

__all__: list[str] = []
