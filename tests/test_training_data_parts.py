"""The data stream in parts: the same rows whatever the number of hosts that read them."""

from __future__ import annotations

from contextlib import ExitStack

import jax
import numpy as np
import pytest
from procedural_set import make_set
from topologies_here import topology_or_skip
from training_cases import FakeBatches, small_config

from stts_jax.config import ConfigError, load_config, replace
from stts_jax.data.pipeline import training_batches
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.writing import write_shards
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training import data_parts
from stts_jax.training.data_parts import DataParts, local_rows, natural_parts, rows_by_process

ROWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory)


def packed_config(folder, workers):
    """Rows of several short videos, chosen among many that wait."""
    return load_config(
        "tiny",
        [
            *(f"data.{split}={folder}/{split}.jsonl" for split in ("train", "validation", "test")),
            f"data.batch_rows={ROWS}",
            f"data.workers={workers}",
            "data.max_frames=3",
            "data.row_frames=8",
            "data.row_examples=4",
            "data.row_text_tokens=700",
        ],
    )


class Hosts:
    """The processes of a run, each with its rows of the batch, as if they were here."""

    def __init__(self, stack, monkeypatch, rows):
        self.stack, self.monkeypatch = stack, monkeypatch
        self.rows = {index: np.array(own) for index, own in enumerate(rows)}
        monkeypatch.setattr(data_parts, "rows_by_process", lambda *_: self.rows)

    def open(self, open_part, parts=None):
        """Opens the data of each host, by default in the parts of a new run."""
        count = len(set().union(*(own.tolist() for own in self.rows.values())))
        found = []
        for index in self.rows:
            with self.monkeypatch.context() as patch:
                patch.setattr(jax, "process_index", lambda index=index: index)
                batches = DataParts(open_part, count, parts or natural_parts(count, None), None)
            found.append(self.stack.enter_context(batches))
        return found


def contiguous(rows, count):
    """The rows of `count` hosts where devices are numbered as they lie."""
    return np.arange(rows).reshape(count, -1).tolist()


def hosts(stack, monkeypatch, config, rows, parts):
    """The parts that hosts with these rows open of a run that began with `parts`."""

    def open_part(part, parts):
        return training_batches(config, process_index=part, process_count=parts)

    return Hosts(stack, monkeypatch, rows).open(open_part, parts)


def next_of(hosts):
    """The rows of all hosts in order, and the states of all parts after them."""
    results = [next(host) for host in hosts]
    states = {part: state for _, states in results for part, state in states.items()}
    batch = jax.tree.map(lambda *rows: np.concatenate(rows), *(batch for batch, _ in results))
    return batch, [states[part] for part in sorted(states)]


@pytest.mark.parametrize(("began", "now", "workers"), [(2, 1, 1), (1, 2, 0), (2, 4, 0)])
def test_a_run_goes_on_with_the_next_batch_when_the_number_of_hosts_changes(
    folder, monkeypatch, began, now, workers
):
    config = packed_config(folder, workers)
    assert_goes_on(monkeypatch, config, config, began, now)


@pytest.mark.parametrize(
    ("coding", "now"), [(None, 4), (FrameCoding(), 1)], ids=["clips", "frames"]
)
def test_a_run_on_shards_goes_on_with_the_batches_of_the_data_themselves(
    folder, coding, now, monkeypatch, tmp_path
):
    config = packed_config(folder, 0)
    write_shards(config, str(tmp_path), coding=coding, per_shard=5)
    stored = replace(config, {"data.train": f"shards:{tmp_path}"})
    assert_goes_on(monkeypatch, config, stored, began=2, now=now)


def assert_goes_on(monkeypatch, began_with, goes_on_with, began, now):
    """A run of some hosts goes on with the next batch on others."""
    with ExitStack() as stack:
        before = hosts(stack, monkeypatch, began_with, contiguous(ROWS, began), began)
        for _ in range(2):
            _, states = next_of(before)
        wanted = [next_of(before)[0] for _ in range(2)]
        assert (wanted[0].num_images > 0).sum(1).max() > 1, "rows hold several videos"
        after = hosts(stack, monkeypatch, goes_on_with, contiguous(ROWS, now), began)
        for host in after:
            host.restore(states)
        for expected in wanted:
            found, _ = next_of(after)
            jax.tree.map(np.testing.assert_array_equal, found, expected)


# Rows of each host, as `mesh_utils` lays the devices of a TPU slice out.
TORUS = {
    "v5p:2x2x2 fsdp=8": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "v5e:4x4 fsdp=16": [[0, 1, 6, 15], [2, 3, 4, 5], [7, 12, 13, 14], [8, 9, 10, 11]],
    "v5e:16x16 data=2 fsdp=128, a part": [
        [0, 1, 8, 9],
        [2, 3, 10, 11],
        [4, 5, 12, 13],
        [6, 7, 14, 15],
    ],
}


class Opened(FakeBatches):
    """Notes the numbers of the parts that are opened, by `training_batches`' arguments."""

    def __init__(self, config, opened, part, parts):
        super().__init__(config, process_index=part, process_count=parts)
        opened.append(part)


@pytest.mark.parametrize("rows", TORUS.values(), ids=TORUS.keys())
def test_every_host_of_a_new_run_opens_one_part_however_its_rows_lie(monkeypatch, rows):
    count, opened = sum(map(len, rows)), []
    config = small_config(f"data.batch_rows={count}")
    with ExitStack() as stack:
        found = Hosts(stack, monkeypatch, rows).open(lambda *part: Opened(config, opened, *part))
        assert opened == list(range(len(rows)))
        assert not any(host.shared for host in found)
        batches = [next(host)[0].text.input_ids for host in found]
    parts = np.split(next(FakeBatches(config)).text.input_ids, len(rows))
    for batch, part in zip(batches, parts, strict=True):
        np.testing.assert_array_equal(batch, part)


@pytest.mark.parametrize("now", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[1], [0], [3], [2]]])
def test_a_run_on_a_torus_goes_on_with_the_same_rows_on_other_hosts(folder, monkeypatch, now):
    config = packed_config(folder, workers=0)

    def rows_of(batch):
        return sorted(row.tobytes() for row in batch.text.input_ids)

    with ExitStack() as stack:
        before = hosts(stack, monkeypatch, config, [[0, 2], [1, 3]], 2)
        _, states = next_of(before)
        wanted = [rows_of(next_of(before)[0]) for _ in range(2)]
        assert len(set(wanted[0])) == ROWS
        after = hosts(stack, monkeypatch, config, now, 2)
        for host in after:
            host.restore(states)
        assert [rows_of(next_of(after)[0]) for _ in range(2)] == wanted
        assert all(host.shared for host in after) == (len(now) > 2)


@pytest.mark.parametrize("now", [[[0, 1], [2, 3]], [[0, 2], [1, 3]]])
def test_rows_of_a_batch_that_hosts_hold_together_are_read_by_all_of_them(monkeypatch, now):
    """So it is if `tensor` spans hosts; such a run prints that it reads the data twice."""
    config, opened = small_config("data.batch_rows=4"), []
    with ExitStack() as stack:
        opening = Hosts(stack, monkeypatch, [*now, *now])
        found = opening.open(lambda *part: Opened(config, opened, *part), natural_parts(4, None))
        assert opened == [0, 1, 0, 1] and all(host.shared for host in found)


def open_parts(config, parts, mesh):
    def open_part(part, parts):
        return FakeBatches(config, process_index=part, process_count=parts)

    return DataParts(open_part, config.data.batch_rows, parts, mesh)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_has_the_same_rows_however_many_parts_it_comes_from(parts):
    config, mesh = small_config(), make_mesh()
    whole, _ = next(open_parts(config, 1, mesh))
    batch, states = next(open_parts(config, parts, mesh))
    jax.tree.map(np.testing.assert_array_equal, batch, whole)
    assert sorted(states) == list(range(parts))


def test_the_place_in_the_data_is_that_of_the_batch_taken_not_of_the_one_fetched():
    config, mesh = small_config(), make_mesh()
    parts = open_parts(config, 2, mesh)
    _, states = next(parts)
    parts.state = states
    ahead, _ = next(parts)  # fetched, never trained on
    again = open_parts(config, 2, mesh)
    again.restore([parts.state[0], parts.state[1]])
    batch, _ = next(again)
    np.testing.assert_array_equal(batch.text.input_ids, ahead.text.input_ids)


def test_fill_rates_are_those_of_all_rows():
    config, mesh = small_config(), make_mesh()
    whole, cut = open_parts(config, 1, mesh), open_parts(config, 2, mesh)
    assert whole.fill_rates() == {}
    next(whole), next(cut)
    assert cut.fill_rates() == pytest.approx(whole.fill_rates())
    assert 0 < whole.fill_rates()["tokens"] <= 1


def test_rows_that_parts_cannot_share_are_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_rows is 8, which the 3 parts"):
        open_parts(small_config(), 3, make_mesh())


@pytest.mark.slow
@pytest.mark.compilers
@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        ("v5p:2x2x2", {"fsdp": 8}),
        ("v5e:4x4", {"fsdp": 16}),
        ("v5e:16x16", {"data": 2, "fsdp": 128}),
    ],
)
def test_hosts_of_a_tpu_slice_read_a_part_each(monkeypatch, topology, shape):
    mesh = make_mesh(shape, topology_or_skip(topology).devices)
    rows = mesh.size
    by_process = rows_by_process(rows, mesh)
    assert natural_parts(rows, mesh) == len(by_process) == rows // 4
    config, opened = small_config(f"data.batch_rows={rows}"), []
    for index in by_process:
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        DataParts(lambda *part: Opened(config, opened, *part), rows, len(by_process), mesh)
    assert sorted(opened) == list(range(len(by_process)))


def test_one_process_supplies_all_rows():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    assert local_rows(8, mesh).tolist() == list(range(8))
    assert natural_parts(8, mesh) == 1
