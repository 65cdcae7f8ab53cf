import hashlib
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset, random_split

from lemmata.operators.data import FieldDataset, MultiResolutionLoader, digest_sum, fingerprint
from lemmata.operators.grids import Grid


def numbered(n, resolution, start=0):
    """A dataset whose samples can be told apart by their value."""
    values = torch.arange(start, start + n, dtype=torch.float32).reshape(n, 1, 1)
    fields = values.expand(n, 1, resolution).clone()
    return FieldDataset(fields, -fields, Grid((resolution,), (1.0,), "periodic"))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_dataset_pairs_inputs_with_targets():
    box = Grid((4, 5), (1.0, 1.0), "nodes")
    data = FieldDataset(torch.rand(7, 2, 4, 5), torch.rand(7, 1, 4, 5), box, attributes={"equation": "darcy"})
    assert len(data) == 7
    assert torch.equal(data[3][0], data.inputs[3])
    assert torch.equal(data[-1][1], data.targets[-1])
    assert data.grid is box
    assert data.attributes == {"equation": "darcy"}
    assert repr(data).startswith("FieldDataset(7 samples, 2 -> 1 channels, Grid(shape=(4, 5)")


def test_torchs_own_tools_take_a_dataset():
    data = numbered(10, 4)
    train, test = random_split(data, [7, 3], generator=seeded(0))
    assert (len(train), len(test)) == (7, 3)
    inputs, targets = next(iter(DataLoader(data, batch_size=4)))
    assert inputs.shape == targets.shape == (4, 1, 4)
    assert torch.equal(pickle.loads(pickle.dumps(data)).inputs, data.inputs)


@pytest.mark.parametrize("cast", [torch.Tensor.bool, torch.Tensor.long, lambda x: x.to(torch.complex64)])
def test_a_dataset_casts_nothing_by_itself(cast):
    box = Grid((4,), (1.0,), "cells")
    with pytest.raises(TypeError, match=r"`inputs` must be of a floating type, got .*; cast it"):
        FieldDataset(cast(torch.ones(3, 1, 4)), torch.ones(3, 1, 4), box)
    with pytest.raises(TypeError, match="`targets` must be of a floating type"):
        FieldDataset(torch.ones(3, 1, 4), cast(torch.ones(3, 1, 4)), box)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ((3, 1, 5), (3, 1, 4), r"`inputs` has shape \(3, 1, 5\), expected \(n, channels, 4\)"),
        ((3, 4), (3, 1, 4), r"`inputs` has shape \(3, 4\)"),
        ((3, 1, 4), (3, 1, 4, 4), r"`targets` has shape \(3, 1, 4, 4\)"),
        ((3, 1, 4), (2, 1, 4), "`inputs` has 3 samples and `targets` has 2"),
    ],
)
def test_shapes_that_disagree(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        FieldDataset(torch.zeros(inputs), torch.zeros(targets), Grid((4,), (1.0,), "cells"))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    size=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_an_epoch_sees_every_sample_once_in_batches_of_one_resolution(counts, size, shuffle, drop_last):
    datasets = [numbered(n, 4 + i, start=100 * i) for i, n in enumerate(counts)]
    loader = MultiResolutionLoader(datasets, size, shuffle=shuffle, drop_last=drop_last, generator=seeded(0))
    batches = list(loader)
    assert len(batches) == len(loader)
    seen = []
    for inputs, targets in batches:
        assert torch.equal(targets, -inputs)
        assert len(inputs) <= size
        numbers = [int(value) for value in inputs[:, 0, 0]]
        assert {4 + number // 100 for number in numbers} == {inputs.shape[-1]}
        seen += numbers
    everything = [100 * i + j for i, n in enumerate(counts) for j in range(n)]
    if drop_last:
        assert len(set(seen)) == len(seen) == sum(n // size * size for n in counts)
    elif shuffle:
        assert sorted(seen) == everything
    else:
        assert seen == everything


def order(loader):
    return [tuple(inputs[:, 0, 0].tolist()) for inputs, _ in loader]


def test_epochs_differ_and_a_seed_repeats_them():
    def epochs(seed):
        loader = MultiResolutionLoader([numbered(9, 4), numbered(9, 8, 100)], 2, generator=seeded(seed))
        return [order(loader) for _ in range(3)]

    first = epochs(0)
    assert first[0] != first[1] != first[2]
    assert epochs(0) == first
    assert epochs(1) != first
    resolutions = [batch[0] >= 100 for batch in first[0]]
    assert resolutions != sorted(resolutions)  # mixed, not one after the other


def test_the_global_seed_stands_in_for_a_generator():
    loader = MultiResolutionLoader([numbered(9, 4), numbered(9, 8, 100)], 2)
    torch.manual_seed(3)
    first = order(loader)
    torch.manual_seed(3)
    assert order(loader) == first


def test_any_dataset_of_pairs_will_do():
    pairs = TensorDataset(torch.zeros(5, 1, 4), torch.ones(5, 1, 4))
    part, _ = random_split(numbered(10, 8), [6, 4], generator=seeded(0))
    loader = MultiResolutionLoader([pairs, part], [5, 3], shuffle=False)
    assert [tuple(inputs.shape) for inputs, _ in loader] == [(5, 1, 4), (3, 1, 8), (3, 1, 8)]


def test_bad_loaders():
    with pytest.raises(ValueError, match="`datasets` is empty"):
        MultiResolutionLoader([], 2)
    with pytest.raises(ValueError, match=r"`datasets` \[1\] have no samples"):
        MultiResolutionLoader([numbered(3, 4), numbered(0, 4)], 2)
    for size in (0, [2], [2, 0]):
        with pytest.raises(ValueError, match="`batch_size`"):
            MultiResolutionLoader([numbered(3, 4), numbered(3, 8)], size)


# Fingerprints


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 6), seed=st.integers(0, 99))
def test_digests_add_up_over_any_order_and_batching(cut, seed):
    x = torch.randn(6, 2, 3, generator=seeded(seed))
    turned = x[torch.randperm(6, generator=seeded(seed))]
    assert fingerprint(turned) == fingerprint(x)
    assert (digest_sum(x[:cut]) + digest_sum(x[cut:])) % 2**256 == digest_sum(x)


def test_a_digest_is_sha256_of_type_shape_and_bytes():
    x = torch.tensor([[1.5, -2.0]])
    expected = hashlib.sha256(b"torch.float32 (2,)" + x.numpy().tobytes()).digest()
    assert digest_sum(x) == int.from_bytes(expected, "big")


def test_fingerprints_tell_samples_apart():
    x = torch.randn(6, 2, 3, generator=seeded(0))
    others = [x[:-1], torch.cat([x, x[:1]]), x.double(), x.reshape(6, 3, 2), x + 1e-7, x.bfloat16(), x[:0]]
    prints = {fingerprint(other) for other in [x, *others]}
    assert len(prints) == 1 + len(others)
    assert fingerprint(x.mT.contiguous().mT) == fingerprint(x)  # strides do not count
