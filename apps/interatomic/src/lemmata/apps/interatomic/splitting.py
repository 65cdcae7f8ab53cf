"""Which frames are trained on, and which are kept for validation and tests.

Neighbouring frames of a trajectory are nearly the same, and a random choice among them puts copies of the
training frames into the test: errors then look better than they are. So frames are split by contiguous blocks
of time, or by a hash of what they are or belong to, which no random number enters: a frame stays on its side
when a set grows, and copies of it are on the same side.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

__all__ = ["Split", "fingerprint", "looks_like_a_trajectory", "split_frames"]

BLOCKS, HASH = "blocks", "hash"
PARTS = ("train", "validation", "test")
TRAJECTORY = "trajectory"
FRAMES_OF_A_GROUP = 10
DIGITS = 3


@dataclass(frozen=True)
class Split:
    """How frames are split.

    Args:
        rule: `blocks`: of the frames of each `config_type` in their order, the last are for tests, those
            before for validation and the first for training; kinds of fewer than ten frames are put together.
            `hash`: by a hash of the structure (species and distances between atoms, so that a rotated,
            translated or reordered copy is the same), or of `key`.
        validation: Fraction for validation.
        test: Fraction for tests.
        gap: With `blocks`, frames left out between two parts.
        key: An entry of the comment line, say the number of a trajectory, whose frames stay together. Where
            None, `blocks` goes by `trajectory` if all frames have it, and `hash` by the structure.
        seed: With `hash`, another choice.

    Raises:
        ValueError: Where an argument is out of range or does not go with the rule.
    """

    rule: str = BLOCKS
    validation: float = 0.1
    test: float = 0.1
    gap: int = 0
    key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in {BLOCKS, HASH}:
            raise ValueError(f"`split` (={self.rule!r}) is not known; expected one of {BLOCKS}, {HASH}")
        for option, fraction in (("validation", self.validation), ("test", self.test)):
            if not 0 <= fraction < 1:
                raise ValueError(f"`{option}_fraction` (={fraction}) must lie in [0, 1)")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"`validation_fraction` (={self.validation}) and `test_fraction` (={self.test}) leave "
                "nothing to train on; expected a sum below 1"
            )
        if self.gap < 0 or (self.gap and self.rule == HASH):
            raise ValueError(f"`gap` (={self.gap}) must be at least 0, and 0 with `split` {HASH}")
        if self.seed < 0:
            raise ValueError(f"`seed` (={self.seed}) must be an integer of at least 0")


def split_frames(frames: Sequence[Atoms], split: Split) -> dict[str, list[int]]:
    """Return the numbers of the frames of each part.

    Args:
        frames: All frames, in their order in time.
        split: The rule.

    Returns:
        Increasing numbers by `train`, `validation` and `test`; none is in two of them.

    Raises:
        ValueError: Where there are no frames to train on, or none for a part that has a fraction, or a frame
            lacks `split_key`.

    Examples:
        >>> frames = [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * i]]) for i in range(10)]
        >>> split_frames(frames, Split(validation=0.2, test=0.1))
        {'train': [0, 1, 2, 3, 4, 5, 6], 'validation': [7, 8], 'test': [9]}
    """
    parts = _by_blocks(frames, split) if split.rule == BLOCKS else _by_hash(frames, split)
    for part, fraction in (("train", 1.0), ("validation", split.validation), ("test", split.test)):
        if fraction and not parts[part]:
            advice = f"a larger fraction, `split` {BLOCKS}," if split.rule == HASH else "a larger fraction"
            raise ValueError(f"no frame of {len(frames)} is left for {part}; use {advice} or more frames")
    return {part: sorted(parts[part]) for part in PARTS}


def fingerprint(atoms: Atoms) -> bytes:
    """Return a hash of a structure that rotation, translation and the order of atoms leave alone.

    It is made of the species and of the distances between atoms by pairs of species, through periodic images
    where there are, rounded to 0.001 Å.

    Args:
        atoms: The structure.

    Returns:
        Thirty-two bytes.

    Examples:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> turned = water[[2, 0, 1]]
        >>> turned.rotate(40, "x")
        >>> turned.translate([1, 2, 3])
        >>> fingerprint(turned) == fingerprint(water)
        True
    """
    first, second = np.triu_indices(len(atoms), 1)
    pairs = np.sort(np.stack([atoms.numbers[first], atoms.numbers[second]]), axis=0)
    distances = np.round(atoms.get_all_distances(mic=bool(atoms.pbc.any()))[first, second], DIGITS) + 0.0
    order = np.lexsort((distances, pairs[1], pairs[0]))
    digest = hashlib.sha256(np.sort(atoms.numbers).astype("<i8").tobytes())
    digest.update(pairs[:, order].astype("<i8").tobytes() + distances[order].astype("<f8").tobytes())
    if atoms.pbc.any():
        digest.update((np.round(atoms.cell.cellpar(), DIGITS) + 0.0).astype("<f8").tobytes())
    return digest.digest()


def looks_like_a_trajectory(frames: Sequence[Atoms]) -> bool:
    """Tell whether each frame is nearer to the next than to one far off, by distances between atoms.

    Args:
        frames: Frames in their order.

    Returns:
        True where the median over pairs of neighbours is below half of that over pairs half the set apart;
        False too where there are too few frames of one composition to tell.
    """
    near: list[float] = []
    far: list[float] = []
    step = len(frames) // 2
    for index in range(0, len(frames) - 1, max(1, len(frames) // 100)):
        here = frames[index]
        for distances, other in ((near, frames[index + 1]), (far, frames[(index + step) % len(frames)])):
            if other is not here and len(here) < 500 and np.array_equal(here.numbers, other.numbers):
                change = here.get_all_distances() - other.get_all_distances()
                distances.append(float(np.sqrt(np.mean(np.square(change)))))
    return min(len(near), len(far)) >= 5 and bool(np.median(near) < 0.5 * np.median(far))


def _by_blocks(frames: Sequence[Atoms], split: Split) -> dict[str, list[int]]:
    """Cut the frames of each kind, in their order."""
    kinds: dict[str, list[int]] = {}
    for number, atoms in enumerate(frames):
        kinds.setdefault(str(atoms.info.get("config_type", "")), []).append(number)
    groups = [group for group in kinds.values() if len(group) >= FRAMES_OF_A_GROUP]
    if small := sorted(n for group in kinds.values() if len(group) < FRAMES_OF_A_GROUP for n in group):
        groups.append(small)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for group in groups:
        tests = round(split.test * len(group))
        validations = round(split.validation * len(group))
        if len(groups) == 1:  # of a few frames, each part that is wanted gets one
            tests, validations = max(tests, int(split.test > 0)), max(validations, int(split.validation > 0))
        borders = _borders([frames[number] for number in group], split.key)
        last = _nearest(len(group) - tests, borders) if tests else len(group)
        stop = max(0, last - (split.gap if tests else 0))
        first = (
            _nearest(stop - validations, [place for place in borders if place < stop])
            if validations
            else stop
        )
        parts["test"] += group[last:]
        parts["validation"] += group[first:stop]
        parts["train"] += group[: max(0, first - (split.gap if validations else 0))]
    return parts


def _borders(frames: Sequence[Atoms], key: str | None) -> list[int]:
    """Return the places before which a sequence of frames may be cut; everywhere where none has the key."""
    values = [str(atoms.info.get(TRAJECTORY if key is None else key, "")) for atoms in frames]
    if key is not None and "" in values:
        raise ValueError(f"a frame has no entry `split_key` (={key!r}); expected one in every frame")
    changes = [place for place in range(1, len(values)) if values[place] != values[place - 1]]
    return changes if "" not in values else []


def _nearest(place: int, borders: Sequence[int]) -> int:
    """Return the border nearest to a place, the place itself where there is no border."""
    return min(borders, key=lambda border: abs(border - place), default=max(0, place))


def _by_hash(frames: Sequence[Atoms], split: Split) -> dict[str, list[int]]:
    """Send each frame where the hash of what it is, or belongs to, says."""
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for number, atoms in enumerate(frames):
        if split.key is None:
            identity = fingerprint(atoms)
        elif split.key in atoms.info:
            identity = str(atoms.info[split.key]).encode()
        else:
            raise ValueError(
                f"frame {number} has no entry `split_key` (={split.key!r}); "
                f"it has {', '.join(atoms.info) or 'none'}"
            )
        digest = hashlib.sha256(f"{split.seed}/".encode() + identity).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        part = (
            "validation"
            if place < split.validation
            else "test"
            if place < split.validation + split.test
            else ""
        )
        parts[part or "train"].append(number)
    return parts
