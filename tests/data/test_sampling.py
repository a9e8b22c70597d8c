"""Batches follow from (seed, epoch) alone and are shared out without loss or duplicates."""

import pytest

from flexunet_pl.data.sampling import EpochBatches, ShardedBatches


def test_training_sees_every_sample_once_an_epoch_in_a_new_order() -> None:
    batches = EpochBatches(7, 3, seed=5)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        items = [item for batch in batches for item in batch]
        assert [epoch_of for epoch_of, _ in items] == [epoch] * 7
        orders.append([index for _, index in items])
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] != orders[1]
    batches.set_epoch(0)
    assert [index for batch in batches for _, index in batch] == orders[0]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert len(batches) == 3


def test_processes_share_an_epoch_and_take_the_same_number_of_steps() -> None:
    parts = [list(EpochBatches(7, 2, seed=5, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    indices = [index for part in parts for batch in part for _, index in batch]
    assert len(indices) == 8
    assert set(indices) == set(range(7))


def test_weights_draw_in_proportion() -> None:
    batches = EpochBatches(1000, 10, seed=0, weights=[9.0] * 100 + [1.0] * 900)
    drawn = [index for batch in batches for _, index in batch]
    # A tenth of the samples with 9 times the weight is half of the draws; 4 standard deviations are 63.
    assert abs(sum(index < 100 for index in drawn) - 500) < 63


def test_an_epoch_longer_than_the_data_shows_every_sample_as_often_but_never_alike() -> None:
    batches = EpochBatches(3, 4, seed=0, length=12)
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epochs.append([item for batch in batches for item in batch])
    assert len(batches) == 3
    for items in epochs:
        assert sorted(index for _, index in items) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
        assert len({tuple(index for _, index in items[start : start + 3]) for start in (0, 3, 6, 9)}) > 1
    assert len({item for items in epochs for item in items}) == 24, "a sample that appears twice is augmented twice"


def test_samples_drawn_twice_with_weights_are_told_apart() -> None:
    batches = EpochBatches(2, 4, seed=0, weights=[1.0, 3.0], length=100)
    items = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        items += [item for batch in batches for item in batch]
    assert len(set(items)) == len(items) == 200


def test_a_shorter_epoch_shows_other_samples_each_time() -> None:
    batches = EpochBatches(50, 5, seed=0, length=10)
    shown = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        shown.append({index for batch in batches for _, index in batch})
    assert [len(indices) for indices in shown] == [10, 10]
    assert shown[0] != shown[1]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_counts_every_sample_once(count: int, world_size: int, batch_size: int) -> None:
    if count < world_size:
        pytest.skip("the DataModule refuses more processes than images")
    parts = [ShardedBatches(count, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert all(len(part) > 0 for part in parts)
    assert sorted(index for part in parts for batch in part for _, index in batch) == list(range(count))


def test_evaluation_batches_do_not_depend_on_the_number_of_processes() -> None:
    alone = {tuple(batch) for batch in ShardedBatches(9, 2)}
    shared = {tuple(batch) for rank in (0, 1) for batch in ShardedBatches(9, 2, rank=rank, world_size=2)}
    assert alone == shared
