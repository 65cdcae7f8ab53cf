"""Partial differential equations with verified reference solvers and seeded samplers of their inputs."""

from lemmata.operators.pde.advection import Advection1d
from lemmata.operators.pde.burgers import Burgers1d
from lemmata.operators.pde.darcy import Darcy2d
from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.etdrk4 import etdrk4
from lemmata.operators.pde.helmholtz import Helmholtz2d
from lemmata.operators.pde.kdv import KdV1d
from lemmata.operators.pde.kuramoto_sivashinsky import KuramotoSivashinsky1d
from lemmata.operators.pde.navier_stokes import NavierStokes2d
from lemmata.operators.pde.periodic import PeriodicEquation
from lemmata.operators.pde.poisson import Poisson2d
from lemmata.operators.pde.random_field import Boundary, GaussianRandomField, Generators

__all__ = [
    "Advection1d",
    "Boundary",
    "Burgers1d",
    "Darcy2d",
    "Equation",
    "GaussianRandomField",
    "Generators",
    "Helmholtz2d",
    "KdV1d",
    "KuramotoSivashinsky1d",
    "NavierStokes2d",
    "PeriodicEquation",
    "Poisson2d",
    "etdrk4",
]
