"""Equations by name: listing is light, building is checked, attributes rebuild."""

import json
import subprocess
import sys

import pytest

from lemmata.apps.pde_surrogate.equations import EQUATIONS, equation_from_attributes, make_equation
from lemmata.operators.pde import Equation


def test_listing_names_and_generating_help_import_nothing_heavy():
    code = (
        "import sys, lemmata.apps.pde_surrogate.equations, lemmata.apps.pde_surrogate.generate; "
        "print(*sorted({'torch', 'dask', 'distributed', 'zarr', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_name_builds_and_rebuilds_from_its_attributes(name):
    equation = make_equation(name)
    assert isinstance(equation, Equation)
    assert name.startswith(equation.name)
    attributes = json.loads(json.dumps({"equation": name, "parameters": equation.parameters()}))
    again = equation_from_attributes(attributes)
    assert type(again) is type(equation)
    assert again.parameters() == equation.parameters()


def test_a_name_brings_its_parameters_and_the_users_win():
    assert make_equation("darcy-rough").parameters()["coefficient"] == "rough"
    assert make_equation("darcy", {"forcing": 2.0}).parameters()["forcing"] == 2.0


def test_unknown_names_and_parameters_are_named():
    with pytest.raises(ValueError, match=r"`equation` \(='darci'\) is not known; expected one of darcy, "):
        make_equation("darci")
    with pytest.raises(ValueError, match=r"'burgers' does not take .*viscocity=0\.1.*it knows .*viscosity"):
        make_equation("burgers", {"viscocity": 0.1})
    with pytest.raises(ValueError, match="coefficient"):
        make_equation("darcy", {"coefficient": "smooth"})
    with pytest.raises(ValueError, match="does not say which equation"):
        equation_from_attributes({})
