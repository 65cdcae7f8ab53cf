"""Principal frames: equivariant as sets, the same dense and ragged, with derivatives that stay finite."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.frames import (
    DegenerateFrameError,
    Frames,
    frame_from,
    frame_mean,
    frame_to,
    pca_frames,
    skew_frames,
)
from lemmata.equivariant.frames.eigenvectors import symmetric_eigenvectors
from lemmata.equivariant.frames.pca import detached, selected
from lemmata.equivariant.o3 import Irreps

COUNTS = {
    "SE": lambda d: 2 ** (d - 1),
    "SO": lambda d: 2 ** (d - 1),
    "E": lambda d: 2**d,
    "O": lambda d: 2**d,
}


def orthogonal(d, *, det):
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    q[:, 0] *= det * torch.linalg.det(q).sign()
    return q


def set_distance(first, second):
    """The largest distance of a matrix of one set to the nearest of the other, both ways."""
    gaps = (first[..., :, None, :, :] - second[..., None, :, :, :]).abs().amax((-1, -2))
    return max(gaps.amin(-1).amax().item(), gaps.amin(-2).amax().item())


@pytest.mark.parametrize("make", [pca_frames, skew_frames])
@pytest.mark.parametrize("d", [2, 3, 4, 5])
@pytest.mark.parametrize(("group", "det"), [("SE", 1), ("E", -1), ("E", 1), ("SO", 1), ("O", -1)])
def test_frames_move_with_the_cloud(make, group, det, d):
    x, q = torch.randn(20, 9, d, dtype=torch.float64), orthogonal(d, det=det)
    t = torch.randn(d, dtype=torch.float64) if "E" in group else torch.zeros(d, dtype=torch.float64)
    frames, moved = make(x, group=group), make(x @ q.T + t, group=group)
    keep = frames.gap > 1e-3
    assert keep.sum() > 10
    assert frames.rotation.shape == (20, COUNTS[group](d) if make is pca_frames else 1, d, d)
    assert set_distance((q @ frames.rotation)[keep], moved.rotation[keep]) < 1e-10
    assert torch.allclose(moved.origin, frames.origin @ q.T + t, atol=1e-13)
    assert torch.allclose(moved.gap, frames.gap, atol=1e-12)
    assert torch.allclose(frames.rotation @ frames.rotation.mT, torch.eye(d, dtype=x.dtype), atol=1e-13)
    if group in {"SE", "SO"}:
        assert torch.allclose(torch.linalg.det(frames.rotation), torch.ones(()).double())


def test_axes_are_those_of_numpys_svd():
    x = torch.randn(7, 3, dtype=torch.float64)
    frames = pca_frames(x, group="E")
    _, s, vt = np.linalg.svd(x.numpy() - x.numpy().mean(0))
    overlap = (frames.rotation.numpy()[0].T @ vt[::-1].T).__abs__()
    assert np.allclose(overlap, np.eye(3), atol=1e-12)
    variances = np.sort(s**2) / (s**2).sum()
    assert frames.gap.item() == pytest.approx(np.diff(variances).min())
    assert len({tuple(r.flatten().tolist()) for r in frames.rotation}) == 8


def test_translations_alone_move_the_origin_alone():
    x = torch.randn(4, 5, 3)
    frames = pca_frames(x, group="T")
    assert frames.rotation.shape == (4, 1, 3, 3)
    assert torch.equal(frames.rotation, torch.eye(3).expand(4, 1, 3, 3))
    assert torch.allclose(frame_to(x, frames)[:, 0], x - x.mean(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("make", [pca_frames, skew_frames])
def test_padding_is_as_if_it_were_not_there(make):
    x, mask = torch.randn(3, 8, 3, dtype=torch.float64), torch.ones(3, 8, dtype=torch.bool)
    mask[0, 5:] = False
    mask[1, ::2] = False
    padded = torch.where(mask[..., None], x, torch.nan)
    frames = make(padded, mask)
    for i in range(3):
        alone = make(x[i][mask[i]])
        assert set_distance(frames.rotation[i], alone.rotation) < 1e-10
        assert torch.allclose(frames.origin[i], alone.origin)


@pytest.mark.parametrize("make", [pca_frames, skew_frames])
def test_ragged_clouds_have_the_frames_of_dense_ones(make):
    sizes = [4, 7, 2, 5]
    batch = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    x = torch.randn(len(batch), 3, dtype=torch.float64)
    weights = torch.rand(len(batch), dtype=torch.float64)
    order = torch.randperm(len(batch))
    frames = make(x[order], batch=batch[order], weights=weights[order], group="E")
    for i in (0, 1, 3):
        alone = make(x[batch == i], weights=weights[batch == i], group="E")
        assert set_distance(frames.rotation[i], alone.rotation) < 1e-10
        assert torch.allclose(frames.origin[i], alone.origin)
        assert frames.gap[i].item() == pytest.approx(alone.gap.item())
    seen = frame_to(x[order], frames, batch=batch[order])
    assert seen.shape == (len(frames.rotation[0]), len(batch), 3)
    back = frame_from(seen, frames, batch=batch[order])
    assert torch.allclose(back, x[order].expand_as(back), atol=1e-13)
    assert torch.allclose(frame_mean(back, frames, batch=batch[order]), x[order])


def test_clouds_of_one_point_none_and_no_clouds_at_all():
    x = torch.tensor([[5.0, 1, 2], [0, 0, 1], [0, 3, 0], [1, 0, 0]])
    frames = pca_frames(x, batch=torch.tensor([0, 2, 2, 2]), num_clouds=3)
    assert frames.gap[:2].tolist() == [0, 0]
    assert frames.gap[2] > 0.01
    assert frames.rotation.isfinite().all()
    assert torch.equal(frames.origin[0], x[:1])
    empty = pca_frames(x[:0], batch=torch.zeros(0, dtype=torch.long))
    assert empty.rotation.shape == (0, 4, 3, 3)
    assert pca_frames(torch.zeros(0, 5, 3)).rotation.shape == (0, 4, 3, 3)
    assert pca_frames(torch.zeros(2, 0, 5, 3), strict=True).rotation.shape == (2, 0, 4, 3, 3)


def test_weights_are_multiplicities():
    x = torch.randn(4, 3, dtype=torch.float64)
    repeated = torch.cat([x, x[:2], x[:1]])
    weighted = pca_frames(x, weights=torch.tensor([3.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    assert set_distance(pca_frames(repeated).rotation, weighted.rotation) < 1e-10
    assert torch.allclose(pca_frames(repeated).origin, weighted.origin)


@settings(deadline=None, max_examples=25)
@given(st.floats(-12, 12), st.integers(0, 10**6))
def test_scale_and_place_do_not_matter(exponent, seed):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    frames, scaled = pca_frames(x), pca_frames(x * 10.0**exponent)
    assert scaled.gap.item() == pytest.approx(frames.gap.item(), abs=1e-5)
    if frames.gap > 0.02:
        assert set_distance(frames.rotation, scaled.rotation) < 1e-3


def test_extreme_coordinates_stay_finite():
    x = torch.randn(6, 3)
    for factor in (1e-25, 1e25, 0.0):
        assert pca_frames(x * factor).rotation.isfinite().all()
        assert skew_frames(x * factor).rotation.isfinite().all()
    far = pca_frames((x + 1e4).double()).rotation
    assert set_distance(far, pca_frames(x + 1e4).rotation.double()) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_frames_in_single(dtype):
    x = torch.randn(5, 6, 3).to(dtype)
    frames = pca_frames(x)
    assert frames.rotation.dtype == torch.float32
    assert torch.allclose(frames.rotation @ frames.rotation.mT, torch.eye(3), atol=1e-5)
    seen = frame_to(x, frames)
    assert seen.dtype == dtype
    assert torch.allclose(frame_from(seen, frames).float(), x.float()[:, None], atol=0.1)


def test_autocast_leaves_frames_alone():
    x = torch.randn(5, 6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, seen = pca_frames(x), frame_to(x, pca_frames(x))
    assert torch.equal(inside.rotation, pca_frames(x).rotation)
    assert torch.equal(seen, frame_to(x, pca_frames(x)))


def test_matrices_and_irreps_turn_as_they_should():
    x, m = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    frames, irreps = pca_frames(x, group="E"), Irreps("2x0e + 1x0o + 2x1o + 1e + 2e")
    seen = frame_to(m, frames, "matrices")
    expected = torch.einsum("bfda,bmde,bfeg->bfmag", frames.rotation, m, frames.rotation)
    assert torch.allclose(seen, expected)
    assert torch.allclose(frame_from(seen, frames, "matrices"), m[:, None].expand_as(seen))
    features = irreps.randn(4, 6, -1, dtype=torch.float64)
    turned = frame_to(features, frames, irreps)
    d = irreps.d_from_matrix(frames.rotation.mT)
    assert torch.allclose(turned, torch.einsum("bfij,bnj->bfni", d, features))
    assert torch.allclose(frame_from(turned, frames, str(irreps)), features[:, None].expand_as(turned))
    vectors = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(frame_to(vectors, frames, "vectors"), frame_to(vectors, frames, "1o"))
    batch = torch.tensor([0, 3, 1, 1])
    rows = frame_to(m, frames, "matrices", batch=batch)
    assert torch.allclose(
        rows[:, 1],
        seen[3].new_tensor(
            frame_to(m[1:2], Frames(*(None if part is None else part[3:4] for part in frames)), "matrices")[
                0
            ].tolist()
        ),
    )
    assert torch.allclose(frame_from(rows, frames, "matrices", batch=batch), m.expand_as(rows))


def test_mean_takes_weights():
    frames = pca_frames(torch.randn(2, 5, 2), group="E")
    y = torch.randn(2, 4, 5, 7)
    weight = torch.rand(2, 4)
    expected = torch.einsum("bf,bfnc->bnc", weight, y)
    assert torch.allclose(frame_mean(y, frames._replace(weight=weight)), expected, atol=1e-6)
    assert torch.allclose(frame_mean(y, frames), y.mean(1))


def energy(x, make=pca_frames, **options):
    """A function of the framed cloud that tells axes and signs apart."""
    frames = make(x, **options)
    seen = frame_to(x, frames)
    scale = torch.arange(1, seen.shape[-1] + 1, dtype=x.dtype)
    return (
        torch.tanh((seen * scale).sin().sum(-2)).pow(2).sum((-1, -2)) + frames.gap + seen.pow(3).tanh().sum()
    )


@pytest.mark.parametrize("make", [pca_frames, skew_frames])
@pytest.mark.parametrize("group", ["SE", "O"])
def test_first_and_second_derivatives(make, group):
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: energy(x, make, group=group), x)
    assert torch.autograd.gradgradcheck(lambda x: energy(x, make, group=group), x)


def test_derivatives_of_ragged_clouds_are_those_of_dense_ones():
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    batch = torch.arange(2).repeat_interleave(5)

    def ragged(x):
        flat = x.flatten(0, 1)
        return frame_to(flat, pca_frames(flat, batch=batch, num_clouds=2), batch=batch).sin().pow(2).sum()

    def dense(x):
        return frame_to(x, pca_frames(x)).sin().pow(2).sum()

    (first,), (second,) = torch.autograd.grad(ragged(x), x), torch.autograd.grad(dense(x), x)
    assert torch.allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("x", [
    torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),  # a tetrahedron
    torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0]]),  # a line
    torch.zeros(4, 3),  # a point
], ids=["tetrahedron", "line", "point"])  # fmt: skip
def test_degenerate_clouds_have_finite_derivatives_and_no_gap(x):
    x = x.double().requires_grad_()
    frames = pca_frames(x)
    assert frames.gap.item() < 1e-12
    (first,) = torch.autograd.grad(energy(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert first.isfinite().all()
    assert second.isfinite().all()
    with pytest.raises(DegenerateFrameError, match="gap") as error:
        pca_frames(x, strict=True)
    assert error.value.gap < 1e-12
    assert pickle.loads(pickle.dumps(error.value)).gap == error.value.gap


def test_eigenvectors_have_torchs_derivatives():
    c = torch.randn(4, 3, 3, dtype=torch.float64)
    c = (c + c.mT).requires_grad_()
    for ours, theirs in zip(symmetric_eigenvectors(c, 1e-9), torch.linalg.eigh(c), strict=True):
        weight = torch.randn_like(ours)
        first, second = (
            torch.autograd.grad((found.square() * weight).sum(), c, retain_graph=True)[0]
            for found in (ours, theirs)
        )
        assert torch.allclose(first, (second + second.mT) / 2, atol=1e-9)


def test_vmap_and_jacobians():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    mapped = torch.func.vmap(energy)(x)
    assert torch.allclose(mapped, torch.stack([energy(part) for part in x]))
    hessian = torch.func.jacrev(torch.func.jacrev(energy))(x[0]).reshape(15, 15)
    assert torch.allclose(hessian, hessian.T, atol=1e-9)
    assert torch.func.vmap(torch.func.jacrev(energy))(x).shape == (4, 5, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiles_to_one_graph():
    torch.compiler.reset()
    x = torch.randn(3, 5, 3, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(energy, fullgraph=True)
    assert torch.allclose(compiled(x), energy(x))
    first, second = (torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, energy))
    assert torch.allclose(first, second)
    assert torch.allclose(
        torch.compile(lambda x: energy(x, skew_frames), fullgraph=True)(x), energy(x, skew_frames)
    )


def test_skew_signs_point_to_the_longer_tail():
    x = torch.randn(50, 20, 3, dtype=torch.float64)
    seen = frame_to(x, skew_frames(x, group="E"))[:, 0]
    assert (seen.pow(3).sum(-2) > 0).all()
    seen = frame_to(x, skew_frames(x, group="SE"))[:, 0]
    assert ((seen.pow(3).sum(-2) > 0).sum(-1) >= 2).all()


def test_normals_of_flat_clouds_are_determined_under_se():
    x = torch.cat([torch.randn(9, 2, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.float64)], dim=-1)
    q = orthogonal(3, det=1)
    frames, moved = skew_frames(x), skew_frames(x @ q.T)
    assert frames.gap.item() > 1e-3
    assert torch.allclose(q @ frames.rotation, moved.rotation, atol=1e-10)
    assert skew_frames(x, group="E").gap.item() < 1e-9


def test_frames_copy_and_pickle():
    frames = pca_frames(torch.randn(4, 5, 3, requires_grad=True))
    assert frames.rotation.requires_grad
    assert not detached(frames).rotation.requires_grad
    one = selected(detached(frames), torch.tensor([0, 3, 1, 2]))
    assert torch.equal(one.rotation[1, 0], frames.rotation[1, 3])
    for same in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert torch.equal(same.rotation, one.rotation)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("x", "options", "error", "match"), [
    (torch.zeros(1, 3), {}, ValueError, "cloud has no frame"),
    (torch.zeros(5, 4, 1), {}, ValueError, "d of at least 2"),
    (torch.zeros(3), {}, ValueError, "shape"),
    (torch.zeros(5, 3).long(), {}, TypeError, "floating"),
    (torch.zeros(20, 11), {"group": "E"}, ValueError, "2048 frames"),
    (torch.zeros(20, 12), {}, ValueError, "2048 frames"),
    (torch.zeros(5, 3), {"group": "SU"}, ValueError, "'SU'"),
    (torch.zeros(5, 3), {"mask": torch.ones(4).bool()}, ValueError, "`mask`"),
    (torch.zeros(5, 3), {"weights": torch.ones(4)}, ValueError, "`weights`"),
    (torch.zeros(5, 3), {"batch": torch.zeros(4).long()}, ValueError, "`batch`"),
    (torch.zeros(5, 3), {"num_clouds": 2}, ValueError, "`num_clouds`"),
    (torch.zeros(5, 3), {"batch": torch.zeros(5).long(), "mask": torch.ones(5).bool()}, ValueError, "`mask`"),
])  # fmt: skip
def test_bad_input_is_named(x, options, error, match):
    for make in (pca_frames, skew_frames):
        with pytest.raises(error, match=match):
            make(x, **options)
    assert pca_frames(torch.randn(12, 10), group="E").rotation.shape == (1024, 10, 10)


def test_wrong_kinds_and_shapes_are_named():
    x = torch.randn(2, 5, 3)
    frames = pca_frames(x)
    with pytest.raises(ValueError, match="'vector' is unknown"):
        frame_to(x, frames, "vector")
    with pytest.raises(ValueError, match="must have shape"):
        frame_to(x[:1], frames)
    with pytest.raises(ValueError, match="expected last dimension 5"):
        frame_to(x, frames, "2e")
    with pytest.raises(ValueError, match="3 dimensions"):
        frame_to(x[..., :2], pca_frames(x[..., :2]), "2x0e")
