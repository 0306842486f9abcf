"""The order of a mixture is a function of seed and position."""

import itertools
import pickle

import grain
import numpy as np
import pytest

from stts_jax.data.mixture_order import Draw, MixtureOrder, MixtureOrderError

SIZES, RATES = [5, 40, 7], [0.2, 0.5, 0.3]
FAR = 200_000  # several tables on


def order(**settings):
    return MixtureOrder(SIZES, RATES, **{"seed": 3, **settings})


def draws(order, start, stop):
    return [order[position] for position in range(start, stop)]


@pytest.mark.parametrize("stratify", [False, True])
def test_every_epoch_of_a_dataset_has_each_example_once(stratify):
    seen = draws(order(stratify=stratify), 0, 2000)
    for source, size in enumerate(SIZES):
        own = [draw for draw in seen if draw.source == source]
        assert [draw.epoch for draw in own] == [k // size for k in range(len(own))]
        for epoch, part in itertools.groupby(own, key=lambda draw: draw.epoch):
            indices = [draw.index for draw in part]
            if epoch < own[-1].epoch:
                assert sorted(indices) == list(range(size))


def test_epochs_differ_in_order():
    epochs = [[d.index for d in draws(MixtureOrder([50], seed=0), k, k + 50)] for k in (0, 50)]
    assert epochs[0] != epochs[1]


def test_datasets_come_at_their_rates():
    sources = np.array([draw.source for draw in draws(order(), 0, 20_000)])
    np.testing.assert_allclose(np.bincount(sources) / len(sources), RATES, atol=0.01)


def test_stratified_datasets_are_never_far_from_their_rates():
    sources = np.array([draw.source for draw in draws(order(stratify=True), 0, 300)])
    for source, rate in enumerate(RATES):
        behind = rate * np.arange(1, 301) - np.cumsum(sources == source)
        assert np.abs(behind).max() <= 1.5


@pytest.mark.parametrize("stratify", [False, True])
def test_a_position_is_the_same_wherever_one_comes_from(stratify):
    first, second = order(stratify=stratify), order(stratify=stratify)
    there = draws(first, FAR, FAR + 20)
    assert draws(second, 0, 20) == draws(first, 0, 20)
    assert draws(second, FAR, FAR + 20) == there


def test_another_seed_is_another_order():
    assert draws(order(), 0, 30) != draws(order(seed=4), 0, 30)


def test_a_copy_in_another_process_goes_on_alike():
    mixture = order()
    expected = draws(mixture, FAR, FAR + 5)
    sent = pickle.dumps(mixture)
    assert len(sent) < 2000
    assert draws(pickle.loads(sent), FAR, FAR + 5) == expected


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_any_number_of_readers_gives_the_same_stream(readers):
    stream = grain.MapDataset.source(order())
    parts = [stream[k::readers] for k in range(readers)]
    found = [parts[position % readers][position // readers] for position in range(30)]
    assert found == draws(order(), 0, 30)


def test_unshuffled_datasets_come_in_their_order():
    assert draws(MixtureOrder([3], seed=0, shuffle=False), 0, 4) == [
        Draw(0, 0, 0), Draw(0, 1, 0), Draw(0, 2, 0), Draw(0, 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "rates", "message"),
    [
        ([5, 0], [0.5, 0.5], "dataset 1 has 0 examples; leave it out"),
        ([5, 5], [1.0], "1 rates for 2 datasets; give one each"),
        ([5, 5], None, "1 rates for 2 datasets; give one each"),
        ([5, 5], [0.5, 0.4], "must add up to 1"),
        ([5, 5], [1.5, -0.5], "may not be negative"),
    ],
)
def test_a_mixture_without_an_order_is_an_error(sizes, rates, message):
    with pytest.raises(MixtureOrderError, match=message):
        MixtureOrder(sizes, rates, seed=0)
