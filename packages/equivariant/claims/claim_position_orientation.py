"""Networks on positions and orientations: bodies in motion, angles that distances do not show, exactness."""

import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lemmata.equivariant.nn import PolynomialCutoff
from lemmata.equivariant.o3 import rand_rotation
from lemmata.equivariant.position_orientation import (
    ConvNextBlock,
    KernelBasis,
    PointCloudConv,
    PositionOrientationNet,
)

SEEDS = (0, 1, 2)
PAPER = (
    "E. J. Bekkers, S. Vadgama, R. D. Hesselink, P. A. van der Linden, D. W. Romero, Fast, Expressive SE(n)"
    " Equivariant Networks through Weight-Sharing in Position-Orientation Space, ICLR 2024, arXiv:2310.02970"
)
HIDDEN, LAYERS, ORIENTATIONS = 48, 3, 12
EPOCHS, BASELINE_EPOCHS = 30, 60
TRIMERS, TRIMER_EPOCHS, TRIMER_BATCH, CUTOFF = 512, 60, 32, 1.4
GRIDS = (12, 20, 32, 64, 128, 256)


@pytest.mark.long
def claim_orientations_foresee_charged_bodies_better_than_augmentation(claim: Any, n_body: Any) -> None:
    """Train on a thousand samples, beside a network that learns rotations from turned data, and an EGNN."""
    plain, ours, egnn = [], [], []
    for seed in SEEDS:
        plain.append(n_body.baseline("message passing", epochs=BASELINE_EPOCHS, seed=seed, augment=True))
        egnn.append(n_body.baseline("egnn", epochs=BASELINE_EPOCHS, seed=seed))
        ours.append(n_body.fit(OrientedBodies, epochs=EPOCHS, seed=seed, prepare=calibrate))
    mses = {
        f"message passing, turned data, {BASELINE_EPOCHS} epochs": [run.test_mse for run in plain],
        f"positions and orientations, {EPOCHS} epochs": [run.test_mse for run in ours],
        f"EGNN, {BASELINE_EPOCHS} epochs": [run.test_mse for run in egnn],
    }
    baseline, found, context = (mean(values) for values in mses.values())
    claim(
        sentence="A convolution over positions and orientations foresees charged bodies better than"
        " message passing that learns rotations from data, in half of its epochs",
        paper=PAPER,
        published="test MSE 0.0043, EGNN 0.0070, SEGNN 0.0043 (3000 samples, 128 channels, 5 layers)",
        setup="five charged bodies, positions 1000 steps of 0.001 later; 1000 samples to learn from, 1000"
        f" to test. Ours: {HIDDEN} channels, {LAYERS} layers, {ORIENTATIONS} orientations turned at random"
        " for each sample while training, charge, velocity and position from the centroid, kernels"
        f" calibrated, {EPOCHS} epochs. All: Adam, batches of 100, learning rates of 0.01 after a warm-up,"
        " cosine to zero",
        bars=[
            claim.bar(
                f"test MSE, mean of {len(SEEDS)} seeds, ours / message passing",
                ours=found,
                baseline=baseline,
                value=found / baseline,
                at_most=0.8,
            )
        ],
        baseline=f"message passing on coordinates with 64 channels and 3 layers ({weights(plain[0].model)}"
        f" weights, ours {weights(ours[0].model)}), each sample turned at random, {BASELINE_EPOCHS} epochs",
        seeds=SEEDS,
        figure=strips(mses, "test MSE"),
        notes=f"EGNN (64 channels, 4 layers, {weights(egnn[0].model)} weights, {BASELINE_EPOCHS} epochs)"
        f" for context: {context:.4f}, ours / EGNN {found / context:.2f}. The paper's lead over EGNN needs"
        " its own regime, thousands of epochs of a wider network on 3000 samples, hours on two cores: it"
        f" was not run, and no bar is set on it. Test MSE by seed: {listed(mses)}. Training MSE by seed,"
        f" ours: {', '.join(f'{run.train_mse:.4f}' for run in ours)}. Seconds of training, means: ours"
        f" {mean([run.seconds for run in ours]):.0f}, message passing"
        f" {mean([run.seconds for run in plain]):.0f}, EGNN {mean([run.seconds for run in egnn]):.0f}."
        " Learning rates were chosen with seed 0 on 1000 further samples: ours from 0.003, 0.01 and 0.02,"
        " the others' from 0.003, 0.01, 0.02 and 0.03; the others' were also seen on the test set, with seed"
        " 0 and 0.001, 0.003 and 0.01, with the same choice",
    )


def claim_orientations_see_angles_that_distances_do_not(claim: Any) -> None:
    """Learn a function of the angle in trimers whose ends do not see one another."""
    oriented = [fit_trimers(oriented_trimers, seed) for seed in SEEDS]
    distances = [fit_trimers(DistanceNet, seed) for seed in SEEDS]
    r2 = {"positions and orientations": [r for r, _ in oriented], "distances": [r for r, _ in distances]}
    claim(
        sentence="With orientations, a network of convolutions learns a function of bond angles of which"
        " a network on distances of neighbours learns nothing",
        paper=PAPER,
        published="attributes that label pairs of positions and orientations up to motions make message"
        " passing a universal approximator of equivariant functions (theorem); with distances it is none",
        setup="isolated trimers, bond lengths 0.9 to 1.1, angles 105 to 170 degrees, at random"
        f" orientations; cutoff {CUTOFF}, which ends of a trimer never reach; target cos(3 angle)."
        f" {TRIMERS} to learn from, {TRIMERS} to test; 32 channels, 3 layers, {ORIENTATIONS} orientations,"
        f" turned at random while training and left alone in the test; {TRIMER_EPOCHS} epochs of Adam in"
        f" batches of {TRIMER_BATCH}, learning rate 0.003 with a cosine to zero for both",
        bars=[
            claim.bar(
                "R^2 with orientations, least of 3 seeds",
                ours=min(r2["positions and orientations"]),
                baseline=max(r2["distances"]),
                value=min(r2["positions and orientations"]),
                at_least=0.95,
            ),
            claim.bar(
                "R^2 with distances, largest of 3 seeds",
                ours=min(r2["positions and orientations"]),
                baseline=max(r2["distances"]),
                value=max(r2["distances"]),
                at_most=0.05,
            ),
        ],
        baseline="the same blocks on features without orientations, kernels of the distance times the"
        f" same cutoff function ({weights(distances[0][1])} weights, ours {weights(oriented[0][1])})",
        seeds=SEEDS,
        figure=strips(r2, "R^2 on the test set"),
        notes=f"R^2 by seed: {listed(r2)}. The baseline sees both bond lengths but no function of the"
        " angle, at any depth: all angles give it the same graph. The learning rate was chosen on other"
        " trimers from 0.003 and 0.01. An earlier version of the network, uncalibrated and with lengths in"
        " units of the cutoff in its attributes, stayed on the plateau on which training starts for all 60"
        " epochs with at least one of these seeds (R^2 -0.01); it now takes lengths as they come, with"
        " which it leaves the plateau within 20 epochs, and is calibrated",
    )


def claim_grids_are_exact_under_their_own_rotations_and_frames_under_all(claim: Any) -> None:
    """Measure equivariance of untrained networks under groups, grids of growing size, and frames."""
    own = {
        kind: equivariance(kind, n, "fixed", own=True)
        for kind, n in (("icosahedron", 12), ("dodecahedron", 20))
    }
    fixed = {n: equivariance("repulsion", n, "fixed") for n in GRIDS}
    spiral = {n: equivariance("fibonacci", n, "fixed") for n in GRIDS}
    data = {kind: equivariance(kind, 20, "data") for kind in ("dihedral", "repulsion")}
    figure, axes = plt.subplots(figsize=(5, 3.5))
    axes.loglog(GRIDS, list(fixed.values()), "o-", label="repulsion")
    axes.loglog(GRIDS, list(spiral.values()), "s--", label="fibonacci")
    axes.set(xlabel="orientations", ylabel="relative error under rotations")
    axes.legend()
    claim(
        sentence="A position-orientation network is exactly equivariant under the rotations of its grid,"
        " under all rotations where the grid goes with the data, and else up to an error that falls with"
        " the grid",
        paper=PAPER,
        published="equivariance is approximate on a grid, and exact in the limit of a dense one",
        setup="untrained networks of 2 layers and 32 channels in float64 on clouds of 8 points, scalars"
        " and vectors in and out; relative difference of vectors that come out, mean over 5 networks and 8"
        " rotations, largest over all 60 rotations for polyhedra",
        bars=[
            claim.bar(
                "largest error under the 60 rotations, icosahedron and dodecahedron",
                ours=max(own.values()),
                baseline=fixed[12],
                value=max(own.values()),
                at_most=1e-12,
            ),
            claim.bar(
                "error under any rotation, grid on a frame of the data",
                ours=max(data.values()),
                baseline=fixed[20],
                value=max(data.values()),
                at_most=1e-10,
            ),
            claim.bar(
                "error under any rotation, 20 orientations / 64",
                ours=fixed[64],
                baseline=fixed[20],
                value=fixed[20] / fixed[64],
                at_least=3,
            ),
        ],
        baseline="the fixed grid of as many charges that repel one another, under any rotation",
        seeds=range(5),
        figure=figure,
        notes="Errors by number of orientations, repulsion / spiral: "
        + ", ".join(f"{n}: {fixed[n]:.2g} / {spiral[n]:.2g}" for n in GRIDS),
    )


class OrientedBodies(nn.Module):
    """Our network on batches of bodies: every body sees every other, and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PositionOrientationNet(1, 2, HIDDEN, 0, 1, LAYERS, ORIENTATIONS, frame="random")

    def graph(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> tuple[Tensor, ...]:
        """Return scalars, vectors, positions, edges and batch of the bodies as graphs."""
        samples, bodies = positions.shape[:2]
        centred = positions - positions.mean(1, keepdim=True)
        pairs = torch.cartesian_prod(torch.arange(bodies), torch.arange(bodies)).T
        edge_index = (pairs[:, None] + bodies * torch.arange(samples)[:, None]).flatten(1)
        vectors = torch.stack([centred, velocities], dim=2).flatten(0, 1)
        batch = torch.arange(samples).repeat_interleave(bodies)
        return charges.flatten(0, 1), vectors, positions.flatten(0, 1), edge_index, batch

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Return positions later, `(samples, bodies, 3)`."""
        graph = self.graph(positions, velocities, charges)
        displacement: Tensor = self.net(*graph, num_graphs=len(positions))[1]
        return positions + displacement.reshape(positions.shape)


def calibrate(model: OrientedBodies, batch: Any) -> None:
    """Calibrate our network on a batch."""
    model.net.calibrate(*model.graph(*batch[:3]), num_graphs=len(batch.positions))


def trimers(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return positions `(count, 3, 3)`, the middle atom first, and cosines of three times the angle."""
    lengths = 0.9 + 0.2 * torch.rand(count, 2, generator=generator)
    angle = torch.deg2rad(105 + 65 * torch.rand(count, generator=generator))
    zero = torch.zeros(count)
    first = torch.stack([lengths[:, 0], zero, zero], dim=-1)
    second = lengths[:, 1:] * torch.stack([angle.cos(), angle.sin(), zero], dim=-1)
    positions = torch.stack([torch.zeros(count, 3), first, second], dim=1)
    return positions @ rand_rotation(count, generator=generator).mT, (3 * angle).cos()


# Both ends see the middle atom, and it sees them.
BONDS = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])


def oriented_trimers() -> nn.Module:
    """Return our network for trimers."""
    return PositionOrientationNet(
        1, 0, 32, 1, 0, 3, ORIENTATIONS, cutoff=CUTOFF, readout="graph", frame="random"
    )


class DistanceNet(nn.Module):
    """The same blocks on features without orientations, with kernels of the distance."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = KernelBasis(1, 32)
        self.cutoff = PolynomialCutoff(CUTOFF)
        self.embed = nn.Linear(1, 32, bias=False)
        self.blocks = nn.ModuleList(ConvNextBlock(32, PointCloudConv(32, 32)) for _ in range(3))
        self.readouts = nn.ModuleList(nn.Linear(32, 1) for _ in range(3))

    def forward(
        self,
        scalars: Tensor,
        vectors: None,  # noqa: ARG002 # the network with orientations could take them
        pos: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_graphs: int,
    ) -> tuple[Tensor, None]:
        """Return a scalar for each graph."""
        gap = pos[edge_index[0]] - pos[edge_index[1]]
        distance = torch.linalg.vector_norm(gap, dim=-1)
        basis = self.basis(distance[:, None] / CUTOFF) * self.cutoff(distance)[:, None]
        x, total = self.embed(scalars), torch.zeros(num_graphs, 1)
        for block, readout in zip(self.blocks, self.readouts, strict=True):
            x = block(x, edge_index, basis)
            total = total.index_add(0, batch, readout(x) / len(self.blocks))
        return total, None


def fit_trimers(make: Callable[[], nn.Module], seed: int) -> tuple[float, nn.Module]:
    """Return R^2 on the test set, and the network."""
    generator = torch.Generator().manual_seed(seed)
    pos, target = trimers(TRIMERS, generator)
    test_pos, test_target = trimers(TRIMERS, generator)
    torch.manual_seed(seed)
    model = make()
    if isinstance(model, PositionOrientationNet):
        model.calibrate(*trimer_graphs(pos[:TRIMER_BATCH]), num_graphs=TRIMER_BATCH)
    steps = TRIMER_EPOCHS * TRIMERS // TRIMER_BATCH
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(TRIMER_EPOCHS):
        for index in torch.randperm(TRIMERS).split(TRIMER_BATCH):
            loss = (predict(model, pos[index]) - target[index]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        residual = (predict(model, test_pos) - test_target).square().mean() / test_target.var(correction=0)
    return 1 - residual.item(), model


def predict(model: nn.Module, pos: Tensor) -> Tensor:
    """Return a network's scalars for trimers."""
    scalars, _ = model(*trimer_graphs(pos), num_graphs=len(pos))
    return scalars[:, 0]


def trimer_graphs(pos: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
    """Return scalars, no vectors, positions, edges and batch of trimers as graphs."""
    count = len(pos)
    edges = (BONDS[:, None] + 3 * torch.arange(count)[:, None]).flatten(1)
    batch = torch.arange(count).repeat_interleave(3)
    return torch.ones(3 * count, 1), None, pos.flatten(0, 1), edges, batch


def equivariance(kind: str, n: int, frame: str, *, own: bool = False) -> float:
    """Return the mean relative error of untrained networks, or the largest under their grid's rotations."""
    errors = []
    edges = torch.cartesian_prod(torch.arange(8), torch.arange(8)).T
    for seed in range(5):
        torch.manual_seed(seed)
        net = PositionOrientationNet(
            1, 1, 32, 1, 1, 2, n, grid=kind, frame=frame, dtype=torch.float64
        ).requires_grad_(requires_grad=False)
        scalars, vectors, pos = (torch.randn(8, *size, dtype=torch.float64) for size in ((1,), (1, 3), (3,)))
        expected = net(scalars, vectors, pos, edges)[1]
        turns = net.grid.symmetry_group if own else rand_rotation(8, dtype=torch.float64)
        for turn in turns:
            found = net(scalars, vectors @ turn.T, pos @ turn.T, edges)[1]
            errors.append(float((found - expected @ turn.T).norm() / expected.norm()))
    return max(errors) if own or frame == "data" else mean(errors)


def strips(values: dict[str, list[float]], label: str) -> Figure:
    """Plot each method's figures, a point a seed."""
    figure, axes = plt.subplots(figsize=(5, 3))
    for row, (name, found) in enumerate(values.items()):
        axes.plot(found, [row] * len(found), "o", label=name)
    axes.set(
        xlabel=label, yticks=range(len(values)), yticklabels=list(values), ylim=(-0.5, len(values) - 0.5)
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def listed(values: dict[str, list[float]]) -> str:
    """Return the figures of each method by seed."""
    return "; ".join(f"{name} {', '.join(f'{v:.4f}' for v in found)}" for name, found in values.items())


def weights(model: nn.Module) -> int:
    """Return the number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def mean(values: list[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)
