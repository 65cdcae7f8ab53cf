"""Write a trained potential as one file, for use without its training or this command line."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemmata.apps.kit.files import new_output, write_atomically

if TYPE_CHECKING:
    from lemmata.apps.interatomic.models import Potential
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Potential = "lemmata.apps.interatomic.models.Potential"

__all__ = ["export", "export_program"]


def export(checkpoint: Path, *, out: Path, program: bool = False, force: bool = False) -> Path:
    """Write a trained potential as one file that holds numbers and plain values alone.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that this verb wrote.
        out: The file, which `trained.load_potential` reads: safetensors with the configuration as JSON among
            the metadata.
        program: Write beside it, with the suffix `.pt2`, a program of `torch.export` that needs no lemmata.
        force: Replace a file that is there.

    Returns:
        The file.

    Raises:
        FileExistsError: Where a file is there and `force` is not given.
        FileNotFoundError: Where there is no such checkpoint.
        ValueError: Where the checkpoint cannot be read, or the potential has no program.
    """
    from safetensors.torch import save_file

    from lemmata.apps.interatomic.trained import CONFIG, load_potential

    potential = load_potential(checkpoint)
    beside = Path(out).with_suffix(".pt2")
    exported = export_program(potential) if program else None
    out = new_output(out, force=force)
    if exported is not None:
        new_output(beside, force=force)
    weights = {name: value.contiguous() for name, value in potential.state_dict().items()}
    with write_atomically(out) as draft:
        save_file(weights, draft, metadata={CONFIG: json.dumps(potential.config)})
    if exported is not None:
        import torch

        with write_atomically(beside) as draft:
            torch.export.save(exported, draft)
    return out


def export_program(potential: Potential) -> Any:
    """Return energies and their slopes as a program of `torch.export`, for any numbers of atoms and edges.

    Args:
        potential: A tensor-product potential.

    Returns:
        An exported program that takes edge vectors `(E, 3)`, places of the atoms' elements in
        `potential.elements` `(N,)` and the edges' sources and targets `(2, E)`, and returns the atoms'
        interaction energies `(N,)` and the derivatives of their sum by the edge vectors `(E, 3)`.

    Raises:
        ValueError: Where the potential's model cannot be traced for any number of atoms.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from lemmata.apps.interatomic.models.potential import Interaction

    if potential.config["model"] != "tensor-product":
        raise ValueError(
            f"`program` needs a tensor-product potential, got {potential.config['model']!r}: eigenvectors "
            "and averages over views cannot be traced together with their derivatives"
        )
    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: edges}, {0: atoms}, {1: edges})
    # Sizes that no other axis has: tracing takes axes of one length for one axis.
    vectors = torch.eye(3, dtype=potential.dtype)[[0, 0, 1, 1, 2, 2, 2]]
    species = torch.zeros(5, dtype=torch.long)
    edge_index = torch.tensor([[1, 2, 0, 2, 0, 1, 3], [0, 0, 1, 1, 2, 2, 4]])
    example = (vectors, species, edge_index)
    program = torch.export.export(Interaction(potential), example, dynamic_shapes=shapes, strict=False)
    # Derivatives are traced through the program of the energies: autograd then sees plain operations.
    energies = program.module()

    def with_slope(vectors: Any, species: Any, edge_index: Any) -> Any:
        vectors = vectors.detach().requires_grad_()
        atomic = energies(vectors, species, edge_index)
        (slope,) = torch.autograd.grad(atomic.sum(), vectors)
        return atomic.detach(), slope

    traced = make_fx(with_slope, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    return torch.export.export(traced, example, dynamic_shapes=shapes, strict=False)
