"""Time training steps and force calls of the flagship potential beside MACE, in MACE's own environment.

Both sides have two layers, 32 channels of scalars and vectors, harmonics up to degree 3, correlation order
3, eight Bessel functions, a cutoff of 5 A and the same neighbours, and learn energies and forces with Adam.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch_geometric.data import Batch

from lemmata.apps.interatomic.graphs import to_data
from lemmata.apps.interatomic.models import build

CUTOFF, CHANNELS, ELEMENTS = 5.0, 32, [1, 6, 8]


@pytest.fixture(scope="module")
def batch() -> Any:
    """Return five shaken molecules of ethyl methyl ether, 60 atoms and some 650 edges, as one batch."""
    rng = np.random.default_rng(0)
    frames = [molecule("CH3CH2OCH3") for _ in range(5)]
    for atoms in frames:
        atoms.rattle(0.05, rng=rng)
    return Batch.from_data_list([to_data(atoms, CUTOFF) for atoms in frames])


def _ours(batch: Any) -> tuple[torch.nn.Module, Callable[[bool], tuple[torch.Tensor, torch.Tensor]]]:
    """Return our model, and a function from whether it trains to energies and forces."""
    torch.manual_seed(0)
    neighbours = batch.edge_index.shape[1] / len(batch.z)
    model = build(
        {
            "model": "tensor-product",
            "elements": ELEMENTS,
            "cutoff": CUTOFF,
            "channels": CHANNELS,
            "average_neighbours": neighbours,
        }
    )

    def call(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = model(batch, forces=True, training=training)
        assert prediction.forces is not None
        return prediction.energy, prediction.forces

    return model, call


def _mace(batch: Any) -> tuple[torch.nn.Module, Callable[[bool], tuple[torch.Tensor, torch.Tensor]]]:
    """Return MACE of the same size, and a function from whether it trains to energies and forces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = pytest.importorskip("mace.modules")
        from e3nn import o3

    torch.manual_seed(0)
    species = torch.tensor([ELEMENTS.index(z) for z in batch.z.tolist()])
    edges = batch.edge_index.shape[1]
    inputs = {
        "positions": batch.pos.clone(),
        "node_attrs": torch.nn.functional.one_hot(species, len(ELEMENTS)).float(),
        "edge_index": batch.edge_index,
        "shifts": torch.zeros(edges, 3),
        "unit_shifts": torch.zeros(edges, 3),
        "cell": torch.zeros(3 * batch.num_graphs, 3),
        "batch": batch.batch,
        "ptr": batch.ptr,
        "head": torch.zeros(batch.num_graphs, dtype=torch.long),
    }
    blocks = modules.interaction_classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps(f"{CHANNELS}x0e+{CHANNELS}x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=edges / len(batch.z),
            atomic_numbers=ELEMENTS,
            correlation=3,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        ).float()

    def call(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        found = model(inputs, training=training)
        return found["energy"], found["forces"]

    return model, call


SIDES = {"lemmata": _ours, "mace": _mace}


@pytest.mark.benchmark(group="training step on energies and forces, 5 molecules of 12 atoms")
@pytest.mark.parametrize("side", list(SIDES))
def bench_training_step(benchmark: Any, side: str, batch: Any) -> None:
    """Take a step of Adam on a loss of energies and forces."""
    model, call = SIDES[side](batch)
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)

    def step() -> None:
        optimizer.zero_grad()
        energy, forces = call(True)
        (energy.square().mean() + forces.square().mean()).backward()
        optimizer.step()

    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
    benchmark.extra_info["parameters"] = sum(p.numel() for p in model.parameters())
    benchmark.pedantic(step, warmup_rounds=3, rounds=15)


@pytest.mark.benchmark(group="forces of 5 molecules of 12 atoms")
@pytest.mark.parametrize("side", list(SIDES))
def bench_forces(benchmark: Any, side: str, batch: Any) -> None:
    """Compute forces, as every step of dynamics does."""
    _, call = SIDES[side](batch)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
    benchmark.pedantic(call, args=(False,), warmup_rounds=3, rounds=30)
