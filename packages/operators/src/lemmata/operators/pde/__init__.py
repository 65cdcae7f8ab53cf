"""Partial differential equations with verified reference solvers and seeded samplers of their inputs."""

from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.random_field import Boundary, GaussianRandomField, Generators

__all__ = [
    "Boundary",
    "Equation",
    "GaussianRandomField",
    "Generators",
]
