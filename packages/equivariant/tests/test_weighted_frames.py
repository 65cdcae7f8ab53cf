"""Weighted frames: equivariant, and continuous where principal axes jump."""

import pytest
import torch

from lemmata.equivariant.frames import FrameAveraging, frame_mean, frame_to, pca_frames, weighted_frames
from lemmata.equivariant.testing import equivariance_error

TETRAHEDRON = torch.tensor(
    [[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
)
LINE = torch.tensor([[-1.0, 0, 0], [0.5, 0, 0], [2.0, 0, 0], [0.1, 0, 0]], dtype=torch.float64)
PLANE = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64)


def invariant(x, frames):
    """A function of the cloud that tells signs and axes apart, averaged."""
    seen = frame_to(x, frames)
    weights = torch.linspace(-1, 2, seen.shape[-2] * seen.shape[-1]).to(x).reshape(seen.shape[-2:])
    return frame_mean((seen * weights).sum((-1, -2)).sin(), frames)


def oscillation(x, make, size, directions=16):
    """How far apart values are at random points at a small distance."""
    generator = torch.Generator().manual_seed(3)
    step = torch.randn(directions, *x.shape, generator=generator, dtype=x.dtype)
    values = invariant(x + size * step, make(x + size * step))
    return (values.amax() - values.amin()).item()


@pytest.mark.parametrize("group", ["SE", "E", "SO", "O"])
@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"candidates": 3}, {"flips": False}], ids=str)
def test_weighted_averages_are_invariant(group, d, options):
    x = torch.randn(5, d, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    if group in {"SE", "SO"}:
        q[:, 0] *= torch.linalg.det(q)
    moved = x @ q.T + (1.0 if "E" in group else 0.0)
    frames = weighted_frames(x, group=group, **options)
    assert frames.weight.sum().item() == pytest.approx(1)
    assert invariant(moved, weighted_frames(moved, group=group, **options)).item() == pytest.approx(
        invariant(x, frames).item(), abs=1e-12
    )
    used = frames.rotation[frames.weight > 1e-9]
    assert torch.allclose(used @ used.mT, torch.eye(d, dtype=x.dtype), atol=1e-10)
    if group in {"SE", "SO"}:
        assert (torch.linalg.det(used) > 0).all()


@pytest.mark.parametrize("x", [TETRAHEDRON, PLANE, LINE, torch.zeros(4, 3).double()],
                         ids=["tetrahedron", "square", "line", "point"])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"flips": False}, {"candidates": 4}], ids=str)
def test_weighted_averages_are_continuous_at_symmetric_clouds(x, options):
    """Values near the cloud approach one another with the distance."""

    def make(x):
        return weighted_frames(x, **options)

    assert oscillation(x, make, 1e-4) < 2e-2
    assert oscillation(x, make, 1e-6) < 2e-4


def test_principal_axes_jump_at_symmetric_clouds():
    """What `weighted_frames` are for: however near, values of averages over principal axes differ."""
    for size in (1e-4, 1e-8):
        assert oscillation(TETRAHEDRON, pca_frames, size) > 0.1


def test_vector_outputs_are_continuous_too():
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(15, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    )
    model = FrameAveraging(net.double(), output="vectors", sample="weighted")
    for x in (TETRAHEDRON, torch.cat([LINE, LINE[:1] / 3]), torch.zeros(5, 3).double()):
        near = x + 1e-6 * torch.randn(16, *x.shape, dtype=x.dtype)
        y = model(near)
        assert (y.amax(0) - y.amin(0)).abs().max() < 1e-4
    assert equivariance_error(model, TETRAHEDRON, "positions", "1o", group="SE3").max < 1e-10


def test_too_few_candidates_for_the_symmetry_jump():
    """Four points tie in the tetrahedron: two candidates cannot be chosen among them continuously."""
    assert oscillation(TETRAHEDRON, lambda x: weighted_frames(x, candidates=2), 1e-6) > 0.05


def test_padding_and_ragged_clouds():
    x, mask = torch.randn(2, 6, 3, dtype=torch.float64), torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    weights = torch.rand(2, 6, dtype=torch.float64)
    padded = torch.where(mask[..., None], x, torch.nan)
    dense = weighted_frames(padded, mask, weights=weights)
    batch = torch.tensor([1] * 6 + [0] * 4)
    flat = torch.cat([x[1], x[0, :4]])
    ragged = weighted_frames(flat, batch=batch, weights=torch.cat([weights[1], weights[0, :4]]))
    alone = weighted_frames(x[0, :4], weights=weights[0, :4])

    def moments(frames):
        return torch.einsum("...f,...fij,...fkl->...ijkl", frames.weight, frames.rotation, frames.rotation)

    assert torch.allclose(moments(dense), moments(ragged))
    assert torch.allclose(moments(dense)[0], moments(alone))
    assert torch.allclose(dense.gap, ragged.gap)


def test_gap_tells_lines_from_the_rest():
    assert weighted_frames(LINE).gap.item() < 1e-12
    assert weighted_frames(PLANE).gap.item() > 0.1
    assert weighted_frames(TETRAHEDRON).gap.item() > 0.1


@pytest.mark.parametrize("options", [{}, {"candidates": 3}], ids=str)
def test_derivatives(options):
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    fn = lambda x: invariant(x, weighted_frames(x, **options))  # noqa: E731
    assert torch.autograd.gradcheck(fn, x)
    assert torch.autograd.gradgradcheck(fn, x)
    for cloud in (TETRAHEDRON, LINE, PLANE, torch.zeros(4, 3).double()):
        leaf = cloud.clone().requires_grad_()
        (first,) = torch.autograd.grad(fn(leaf), leaf, create_graph=True)
        assert first.isfinite().all()
        assert torch.autograd.grad(first.square().sum(), leaf)[0].isfinite().all()


def test_forces_are_continuous_at_the_tetrahedron():
    def forces(x):
        x = x.requires_grad_()
        return torch.autograd.grad(invariant(x, weighted_frames(x)).sum(), x)[0]

    near = forces(TETRAHEDRON + 1e-7 * torch.randn(16, 5, 3, dtype=torch.float64))
    assert (near.amax(0) - near.amin(0)).max() < 1e-4


@pytest.mark.usefixtures("unchecked")
def test_translations_and_bad_input():
    assert weighted_frames(torch.randn(5, 3), group="T").rotation.shape == (1, 3, 3)
    with pytest.raises(ValueError, match="`candidates`"):
        weighted_frames(torch.randn(5, 3), candidates=0)
    with pytest.raises(ValueError, match="no frame"):
        weighted_frames(torch.randn(1, 3))
    with pytest.raises(ValueError, match="`group`"):
        weighted_frames(torch.randn(5, 3), group="SU")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiles_to_one_graph():
    torch.compiler.reset()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    fn = lambda x: invariant(x, weighted_frames(x, candidates=3))  # noqa: E731
    assert torch.allclose(torch.compile(fn, fullgraph=True)(x), fn(x))
