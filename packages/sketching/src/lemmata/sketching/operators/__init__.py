"""Random matrices that shrink tall data, applied without being stored."""
