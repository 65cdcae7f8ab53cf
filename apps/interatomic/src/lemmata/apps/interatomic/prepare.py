"""Check, split and describe extended-XYZ files: from anybody's file to a folder that training starts from."""

import shutil
import sys
from pathlib import Path

__all__ = ["prepare"]


def prepare(
    source: Path | str,
    out: Path,
    *,
    validation: Path | None = None,
    test: Path | None = None,
    isolated: Path | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    split: str = "blocks",
    split_key: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    gap: int = 0,
    seed: int = 0,
    max_force: float = 100.0,
    cutoff: float = 5.0,
    force: bool = False,
) -> Path:
    """Check, split and describe labelled frames, and write them as a folder to train from.

    Frames are read from extended XYZ with energies in eV, forces in eV/Å and stresses in eV/Å³. Those that
    cannot be used are dropped and counted. Free atoms among them, or in a file of their own, give the
    energies that a potential is measured from; without them these are fitted to compositions. The folder is
    complete or not there.

    Args:
        source: An extended-XYZ file, or a published set: acetylacetone, 3bpa or 3bpa-mixed.
        out: Folder to write: train.xyz, validation.xyz, test.xyz and card.json.
        validation: A file to validate on, in place of a part of the source.
        test: A file to test on, in place of a part of the source.
        isolated: A file of free atoms with their energies.
        energy_key: What the files call energies; the usual names are recognised, none is to do without.
        forces_key: What the files call forces, likewise.
        stress_key: What the files call stresses, or virials (with virial in the name), likewise.
        split: How the source is split: blocks (contiguous in time) or hash (of the structure); not at random.
        split_key: An entry of the comment line whose frames stay together; blocks keeps trajectory together.
        validation_fraction: Fraction of the source for validation.
        test_fraction: Fraction of the source for tests.
        gap: With blocks, frames to leave out between two parts.
        seed: With hash, another choice.
        max_force: Frames with a longer force are dropped, in eV/Å.
        cutoff: Radius of neighbourhoods for the card, in Å.
        force: Replace a folder that was prepared before.

    Returns:
        The folder.

    Raises:
        FileExistsError: Where the folder exists and `force` is not given, or it is not one of `prepare`.
        FileNotFoundError: Where a file does not exist.
        ValueError: Where a file cannot be read or lacks labels, or an argument is out of range.
    """
    from lemmata.apps.interatomic.card import print_card
    from lemmata.apps.interatomic.dataset import assemble, write_prepared
    from lemmata.apps.interatomic.splitting import Split

    out = Path(out)
    _check_replaceable(out, force=force)
    data = assemble(
        source,
        validation=validation,
        test=test,
        isolated=isolated,
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
        split=Split(split, validation_fraction, test_fraction, gap, split_key, seed),
        max_force=max_force,
        cutoff=cutoff,
        progress=sys.stderr.isatty(),
    )
    draft = out.with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        write_prepared(data, draft)
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print_card(data.card)
    return out


def _check_replaceable(out: Path, *, force: bool) -> None:
    """Raise where writing a folder would destroy what should stay."""
    from lemmata.apps.interatomic.sources import Source

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not Source(out).prepared:
        raise FileExistsError(f"{out} exists and is not a folder of prepare; it is never replaced")
    if not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
