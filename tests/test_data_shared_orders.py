"""Orders that processes share in files."""

import pickle
from pathlib import Path

from full_disk import no_room_in_files

from stts_jax.data import shared_orders
from stts_jax.data.mixture_order import MixtureOrder
from stts_jax.data.shared_orders import SharedOrders


def test_a_shared_order_is_the_one_in_memory(monkeypatch):
    alone = [SharedOrders(3, 1000).order(1000, epoch) for epoch in range(4)]
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    shared = SharedOrders(3, 1000)
    copy = pickle.loads(pickle.dumps(shared))
    for epoch, order in enumerate(alone):
        assert (shared.order(1000, epoch) == order).all()
        assert (copy.order(1000, epoch) == order).all()
    folder = Path(shared._folder.name)
    assert sorted(path.name for path in folder.glob("*.npy")) == ["1000-2.npy", "1000-3.npy"]
    del shared
    assert not folder.exists()
    assert (copy.order(1000, 2) == alone[2]).all()


def test_large_datasets_are_drawn_as_small_ones_are(monkeypatch):
    small = [MixtureOrder([300], seed=5)[position] for position in range(700)]
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    order = MixtureOrder([300], seed=5)
    assert [order[position] for position in range(700)] == small


def test_on_a_full_disk_each_process_has_its_own_order(monkeypatch):
    no_room_in_files(monkeypatch)
    alone = SharedOrders(3, 1000).order(1000, 0)
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    shared = SharedOrders(3, 1000)
    assert (shared.order(1000, 0) == alone).all()
    assert [path.name for path in Path(shared._folder.name).iterdir()] == ["lock"]
