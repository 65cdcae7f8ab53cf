"""Irreps: notation, order and arithmetic against e3nn's, and errors."""

import copy
import pickle

import e3nn.o3
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import Irrep, Irreps, MulIrrep, rand_rotation, spherical_harmonics

F64 = torch.float64
IRREP = st.tuples(st.integers(0, 12), st.sampled_from("eo")).map(lambda parts: f"{parts[0]}{parts[1]}")
IRREPS = st.lists(st.tuples(st.integers(0, 4), IRREP), max_size=6).map(
    lambda entries: " + ".join(f"{mul}x{ir}" for mul, ir in entries)
)


@settings(deadline=None, max_examples=150)
@given(IRREPS, IRREPS, st.integers(0, 3))
def test_equal_e3nns(text: str, other: str, times: int) -> None:
    ours, theirs = Irreps(text), e3nn.o3.Irreps(text)
    assert str(ours) == str(theirs)
    assert (ours.dim, ours.num_irreps, ours.ls) == (theirs.dim, theirs.num_irreps, theirs.ls)
    assert ours.slices() == theirs.slices()
    assert str(ours.simplify()) == str(theirs.simplify())
    assert str(ours.regroup()) == str(theirs.regroup())
    assert str(ours + Irreps(other)) == str(theirs + e3nn.o3.Irreps(other))
    assert str(ours * times) == str(theirs * times) == str(times * ours)
    sorted_ours, sorted_theirs = ours.sort(), theirs.sort()
    assert str(sorted_ours.irreps) == str(sorted_theirs.irreps)
    assert (sorted_ours.p, sorted_ours.inverse) == (sorted_theirs.p, sorted_theirs.inv)
    for entry in Irreps(other):
        assert ours.count(entry.ir) == theirs.count(str(entry.ir))
        assert (entry.ir in ours) == (ours.count(entry.ir) > 0)
    if ours.ls:
        assert ours.lmax == theirs.lmax


@settings(deadline=None, max_examples=60)
@given(IRREPS)
def test_texts_pickles_and_copies_round_trip(text: str) -> None:
    irreps = Irreps(text)
    assert Irreps(str(irreps)) == irreps == Irreps(irreps)
    for twin in (pickle.loads(pickle.dumps(irreps)), copy.deepcopy(irreps), copy.copy(irreps)):
        assert twin == irreps
        assert isinstance(twin, Irreps)
        assert hash(twin) == hash(irreps)
        assert all(isinstance(entry, MulIrrep) for entry in twin)


@settings(deadline=None, max_examples=60)
@given(IRREP, IRREP)
def test_irreps_of_products_equal_e3nns(one: str, two: str) -> None:
    ours = list(Irrep(one) * Irrep(two))
    assert [str(ir) for ir in ours] == [str(ir) for ir in e3nn.o3.Irrep(one) * e3nn.o3.Irrep(two)]
    assert sum(ir.dim for ir in ours) == Irrep(one).dim * Irrep(two).dim
    assert pickle.loads(pickle.dumps(Irrep(one))) == Irrep(one)


def test_notation() -> None:
    assert Irrep("3y") == Irrep(3, -1)
    assert Irrep("2y") == Irrep(2, 1)
    assert Irreps(" 2 x 1o+0e ") == Irreps([(2, "1o"), "0e"]) == Irreps([(2, (1, -1)), (1, 0, 1)])
    assert Irreps("") == Irreps([]) == Irreps()
    assert Irreps("").dim == 0
    assert 3 * Irrep("1o") == Irreps("3x1o")
    assert Irrep("1o") + Irrep("0e") == Irreps("1o + 0e")
    assert "0e" + Irreps("1o") == Irreps("0e + 1o")
    assert Irreps("2x1o + 0e + 3x1o")[1:] == Irreps("0e + 3x1o")
    assert Irreps("2x1o + 0e + 3x1o").filter(["1o"]) == Irreps("2x1o + 3x1o")
    assert Irreps.spherical_harmonics(3) == Irreps("0e + 1o + 2e + 3o")
    assert Irreps.spherical_harmonics(2, p=1) == Irreps("0e + 1e + 2e")
    assert repr(Irreps("0e + 2x1o")) == "1x0e+2x1o"


@pytest.mark.parametrize(
    "text", ["1x", "x1o", "-2x0e", "2x1a", "1.5x0e", "2x-1o", "0e 1o", "0e,1o", "0e+", "++", "2*0e", "e"]
)
def test_terms_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read the term .* of irreps") as error:
        Irreps(text)
    assert repr(text) in str(error.value)


def test_bad_input() -> None:
    for bad in (("1z",), (-1, 1), (1, 0), ("1o", 1), (True, 1), (1.0, 1), (1, None)):
        with pytest.raises(ValueError, match=r"`[lp]`"):
            Irrep(*bad)
    for entry in ((-1, "0e"), (1.5, "0e"), (True, "0e"), (1,), ("0e", 1), 3, "1o+0e"):
        with pytest.raises(ValueError, match="entry of `irreps`"):
            Irreps([entry])
    with pytest.raises(ValueError, match="`lmax`"):
        _ = Irreps("0x3e").lmax
    with pytest.raises(ValueError, match="expected last dimension 4 for 1x0e\\+1x1o, got 3"):
        Irreps("0e + 1o").check(torch.ones(3))
    with pytest.raises(ValueError, match="`shape`"):
        Irreps("0e").randn(3)
    with pytest.raises(TypeError):
        Irreps("0e") + 3  # type: ignore[operator]


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Irrep("1o").l = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Irreps("0e")[0] = MulIrrep(1, Irrep("1o"))  # type: ignore[index]
    assert len({Irreps("0e"), Irreps("1x0e"), Irreps("0o")}) == 2


def test_random_features() -> None:
    irreps = Irreps("2x0e + 3x1o")
    generator = torch.Generator().manual_seed(3)
    x = irreps.randn(4, -1, 5, generator=generator, dtype=F64)
    assert x.shape == (4, 11, 5)
    assert torch.equal(x, irreps.randn(4, -1, 5, generator=generator.manual_seed(3), dtype=F64))
    assert irreps.randn(-1, requires_grad=True).requires_grad


def test_representation_equals_e3nns() -> None:
    text = "2x0e + 0x1e + 1x0o + 2x1o + 1x1e + 1x3e + 1x2o"
    rotation = rand_rotation(3, dtype=F64)
    matrices = torch.cat([rotation, -rotation])
    found = Irreps(text).d_from_matrix(matrices)
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)  # e3nn computes in the default dtype
    theirs = torch.stack([e3nn.o3.Irreps(text).D_from_matrix(matrix) for matrix in matrices])
    torch.set_default_dtype(before)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-11)


def test_representation_is_one() -> None:
    irreps = Irreps("1x0o + 1x1o + 1x2o + 1x4e")
    a, b = rand_rotation(2, dtype=F64)
    product = irreps.d_from_matrix(-a) @ irreps.d_from_matrix(b)
    torch.testing.assert_close(product, irreps.d_from_matrix(-a @ b), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        irreps.d_from_matrix(a).mT, irreps.d_from_matrix(a.mT.contiguous()), rtol=0, atol=1e-12
    )


def test_representation_turns_harmonics() -> None:
    irreps = Irreps.spherical_harmonics(5)
    x, reflection = torch.randn(7, 3, dtype=F64), -rand_rotation(dtype=F64)
    turned = spherical_harmonics(irreps, x @ reflection.mT, normalize=False)
    expected = spherical_harmonics(irreps, x, normalize=False) @ irreps.d_from_matrix(reflection).mT
    torch.testing.assert_close(turned, expected, rtol=1e-11, atol=1e-11)


def test_representation_batches_and_differentiates() -> None:
    irreps = Irreps("1x0e + 2x1o")
    rotations = rand_rotation(2, 3, dtype=F64)
    batched = irreps.d_from_matrix(rotations)
    torch.testing.assert_close(torch.vmap(torch.vmap(irreps.d_from_matrix))(rotations), batched)
    assert irreps.d_from_matrix(rotations[:0]).shape == (0, 3, 7, 7)
    assert torch.autograd.gradcheck(irreps.d_from_matrix, (rotations[0, 0].requires_grad_(),))
