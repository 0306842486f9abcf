"""The data stream in parts: the same rows whatever the number of hosts that read them."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from training_cases import FakeBatches, small_config

from stts_jax.config import ConfigError, load_config
from stts_jax.data.pipeline import training_batches
from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training import data_parts
from stts_jax.training.data_parts import DataParts, local_rows, natural_parts

ROWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "synthetic"
    return ensure_synthetic(path, videos=30, seed=1, progress=False)


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


def hosts(stack, monkeypatch, config, count, parts):
    """The parts that each of `count` hosts opens of a run that began with `parts`."""

    def open_part(part, parts):
        return training_batches(config, process_index=part, process_count=parts)

    found = []
    for index in range(count):
        mine = np.arange(ROWS).reshape(count, -1)[index]
        monkeypatch.setattr(data_parts, "local_rows", lambda rows, mesh, mine=mine: mine)
        found.append(stack.enter_context(DataParts(open_part, ROWS, parts, make_mesh())))
    return found


def next_of(hosts):
    """The rows of all hosts in order, and the states of all parts after them."""
    results = [next(host) for host in hosts]
    states = {part: state for _, states in results for part, state in states.items()}
    names = results[0][0]
    batch = {name: np.concatenate([batch[name] for batch, _ in results]) for name in names}
    return batch, [states[part] for part in sorted(states)]


@pytest.mark.parametrize(("began", "now", "workers"), [(2, 1, 1), (1, 2, 0), (2, 4, 0)])
def test_a_run_goes_on_with_the_next_batch_when_the_number_of_hosts_changes(
    folder, monkeypatch, began, now, workers
):
    config = packed_config(folder, workers)
    with ExitStack() as stack:
        before = hosts(stack, monkeypatch, config, began, began)
        for _ in range(2):
            _, states = next_of(before)
        wanted = [next_of(before)[0] for _ in range(2)]
        assert (wanted[0]["num_images"] > 0).sum(1).max() > 1, "rows hold several videos"
        after = hosts(stack, monkeypatch, config, now, began)
        for host in after:
            host.restore(states)
        for expected in wanted:
            found, _ = next_of(after)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=name)


def open_parts(config, parts, mesh):
    def open_part(part, parts):
        return FakeBatches(config, process_index=part, process_count=parts)

    return DataParts(open_part, config.data.batch_rows, parts, mesh)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_has_the_same_rows_however_many_parts_it_comes_from(parts):
    config, mesh = small_config(), make_mesh()
    whole, _ = next(open_parts(config, 1, mesh))
    batch, states = next(open_parts(config, parts, mesh))
    assert batch.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(batch[name], whole[name], err_msg=name)
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
    np.testing.assert_array_equal(batch["input_ids"], ahead["input_ids"])


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


def test_one_process_supplies_all_rows():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    assert local_rows(8, mesh).tolist() == list(range(8))
    assert natural_parts(8, mesh) == 1
