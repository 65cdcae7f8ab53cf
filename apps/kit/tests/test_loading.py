# ruff: noqa: NPY002  # numpy's global generator is among what is saved and left alone
"""The order of batches: a function of (seed, epoch), the same however many processes share it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lemmata.apps.kit.loading import ResumableLoader, ResumableSampler


class Drawing(Dataset):
    """Adds what it draws from every global generator."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index + torch.rand(()).double() + np.random.rand() + random.random()


@given(
    length=st.integers(1, 40), replicas=st.integers(1, 5), drop_last=st.booleans(), epoch=st.integers(0, 9)
)
def test_processes_share_one_order_as_torch_deals_it(length, replicas, drop_last, epoch):
    if drop_last and length < replicas:
        return
    samplers = [
        ResumableSampler(length, seed=3, num_replicas=replicas, rank=rank, drop_last=drop_last)
        for rank in range(replicas)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    order = samplers[0].order().tolist()
    assert sorted(order) == list(range(length))
    for rank, sampler in enumerate(samplers):
        torchs = DistributedSampler(
            range(length), num_replicas=replicas, rank=rank, shuffle=False, drop_last=drop_last
        )
        assert list(sampler) == [order[place] for place in torchs]
        assert len(sampler) == len(torchs)


def test_orders_differ_between_epochs_and_seeds_and_not_between_runs():
    def order(seed, epoch):
        sampler = ResumableSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == len(orders)
    torch.manual_seed(99)
    assert order(2, 3) == orders[2, 3]


@pytest.mark.parametrize("sizes", [4, [3, 2]])
def test_two_processes_see_the_global_batches_of_one(sizes):
    data = [torch.arange(24), torch.arange(100, 112)]
    halves = [sizes] * 2 if isinstance(sizes, int) else sizes
    one = list(ResumableLoader(data, [2 * size for size in halves], seed=1))
    parts = [list(ResumableLoader(data, halves, seed=1, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert len(one) == len(parts[0]) == len(parts[1])
    for whole, *halved in zip(one, *parts, strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(halved).tolist())


def test_no_batch_mixes_data_sets_and_every_sample_comes_once():
    loader = ResumableLoader([torch.arange(7), torch.arange(100, 105)], [3, 2], seed=0)
    batches = [batch.tolist() for batch in loader]
    assert len(batches) == len(loader) == 6
    assert sorted(index for batch in batches for index in batch) == [*range(7), *range(100, 105)]
    assert all(len({index >= 100 for index in batch}) == 1 for batch in batches)
    assert len(ResumableLoader([torch.arange(7), torch.arange(5)], [3, 2], drop_last=True)) == 4


@pytest.mark.parametrize("stop", range(6))
def test_a_loader_goes_on_where_another_stopped(stop):
    loader = ResumableLoader(torch.arange(23), 4, seed=2)
    loader.set_epoch(3)
    whole = [batch.tolist() for batch in loader]
    batches = iter(loader)
    for _ in range(stop):
        next(batches)
    again = ResumableLoader(torch.arange(23), 4, seed=2)
    again.load_state_dict(loader.state_dict())
    again.set_epoch(3)
    assert [batch.tolist() for batch in again] == whole[stop:]
    assert [batch.tolist() for batch in again] == whole, "a second pass is whole"
    again.set_epoch(4)
    assert [batch.tolist() for batch in again] != whole


@pytest.mark.slow
def test_position_counts_what_was_handed_out_not_what_workers_read_ahead():
    loader = ResumableLoader(Drawing(), 2, num_workers=2, prefetch_factor=2, multiprocessing_context="fork")
    batches = iter(loader)
    first = [next(batches), next(batches)]
    state = loader.state_dict()
    assert state["position"] == 2
    alone = ResumableLoader(Drawing(), 2)
    alone.load_state_dict(state)
    rest = list(batches)
    assert [batch.tolist() for batch in alone] == [batch.tolist() for batch in rest]
    assert [batch.tolist() for batch in [*first, *rest]] == [batch.tolist() for batch in alone]


def test_reading_leaves_the_trainings_generators_alone(unchecked):
    # Unchecked, as beartype picks the list items it checks with Python's global generator.
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    drawn = torch.stack([sample for batch in ResumableLoader(Drawing(), 3, seed=1) for sample in batch])
    assert len(set((drawn % 1).tolist())) == 10
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


def test_a_state_of_other_data_is_refused():
    state = ResumableLoader(torch.arange(10), 2).state_dict()
    with pytest.raises(ValueError, match=r"batch_sizes \[2\], this run has \[5\]"):
        ResumableLoader(torch.arange(10), 5).load_state_dict(state)
    with pytest.raises(ValueError, match="length 3, this run has 4"):
        ResumableSampler(4).load_state_dict(ResumableSampler(3).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), "must hold samples"),
        ((torch.arange(3), 0), r"`batch_size` \(=0\)"),
        (([torch.arange(3), torch.arange(3)], [1]), "one for each of 2 data sets"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResumableLoader(*arguments)
    with pytest.raises(ValueError, match="no batch is left"):
        ResumableLoader(torch.arange(3), 4, drop_last=True)
    with pytest.raises(ValueError, match="rank"):
        ResumableSampler(3, num_replicas=2, rank=2)


def test_the_sampler_serves_torchs_loader():
    sampler = ResumableSampler(6, seed=1)
    sampler.position = 2
    batches = [batch.tolist() for batch in DataLoader(torch.arange(6), batch_size=2, sampler=sampler)]
    assert [index for batch in batches for index in batch] == sampler.order().tolist()[2:]
