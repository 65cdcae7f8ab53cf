"""Sparse systems of elliptic problems, and what solves sequences of them."""

from lemmata.operators.solvers.problems import System, darcy, helmholtz, poisson

__all__ = ["System", "darcy", "helmholtz", "poisson"]
