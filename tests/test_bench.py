"""The bench: what it calls ideal, how it takes turns, and that it runs."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arbitrary_models import arbitrary_model
from goldens_folder import REPOSITORY

from stts_jax.bench.__main__ import main
from stts_jax.bench.decode import prompt_tokens, unequal_prompts
from stts_jax.bench.ideal import part_flops
from stts_jax.bench.model import bench_batch, bench_budget, bench_config, small_config
from stts_jax.bench.peer import REQUIRED as REQUIRED_OF_PEER
from stts_jax.bench.peer import Peer, peer_rows, peer_table
from stts_jax.bench.programs import selection, selection_inputs
from stts_jax.bench.race import Times, race, speedup
from stts_jax.bench.report import REQUIRED, as_table, result_rows, stages
from stts_jax.budget import batch_arrays
from stts_jax.config import ConfigError, load_config
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.platform import compute_dtype

FRAMES = 16


def test_the_model_has_the_4b_s_proportions():
    """Widths a quarter, depths a third, heads as wide."""
    ours, theirs = bench_config(0.5).model, load_config("molmo2_4b_stts_50").model
    assert ours.vit.width * 4 == theirs.vit.width
    assert ours.vit.head_dim == theirs.vit.head_dim
    assert ours.vit.mlp_width * 4 == theirs.vit.mlp_width
    assert ours.vit.layers * 3 == theirs.vit.layers
    assert ours.vit.patches == theirs.vit.patches
    assert ours.llm.width * 4 == theirs.llm.width
    assert ours.llm.head_dim == theirs.llm.head_dim
    assert ours.llm.heads * 4 == theirs.llm.heads
    assert ours.llm.kv_heads * 4 == theirs.llm.kv_heads
    assert ours.llm.mlp_width * 4 == theirs.llm.mlp_width
    assert ours.llm.layers * 3 == theirs.llm.layers


def test_the_row_fits_its_budget():
    config = small_config(0.5)
    budget = bench_budget(config, 4)
    batch = bench_batch(config, budget)
    contract = batch_arrays(budget, config.model, 1)
    assert {k: (v.shape, v.dtype) for k, v in batch.to_arrays().items()} == contract
    patch = config.model.llm.special_token("<im_patch>")
    assert (batch.text.input_ids == patch).sum() == budget.visual_before
    pooled = batch.token_pooling
    assert len(np.unique(pooled)) == pooled.size == 4 * config.model.vit.patches


# ------------------------------------------------------------------------------------- the ideal


def test_ideal_counts_each_frame_s_own_patches():
    """Written out for the ViT: token-wise layers, and two products of n x n x width."""
    config = bench_config(0.5)
    budget = bench_budget(config, FRAMES)
    even = np.full(FRAMES, budget.patches / FRAMES)
    uneven = even + np.where(np.arange(FRAMES) % 2, 90, -90)
    model = config.model
    difference = (uneven**2).sum() - (even**2).sum()
    expected = 4 * (model.vit.depth - 2) * difference * model.vit.heads * model.vit.head_dim
    few, many = (part_flops(config, budget, kept) for kept in (even, uneven))
    for part, times in (("vit", 1), ("prefill", 0), ("forward", 1), ("step", 3)):
        assert many[part] - few[part] == pytest.approx(times * expected, rel=1e-6), part


def test_unpruned_ideal_is_the_plain_count():
    config = bench_config(0.0)
    budget = bench_budget(config, FRAMES)
    vit = config.model.vit
    inner, tokens = vit.heads * vit.head_dim, FRAMES * vit.patches
    layer = 2 * (4 * vit.width * inner + 2 * vit.width * vit.mlp_width) + 4 * vit.patches * inner
    embed = 2 * vit.patch_dim * vit.width
    flops = part_flops(config, budget, np.full(FRAMES, vit.patches))
    assert flops["vit"] == pytest.approx(tokens * (vit.depth * layer + embed), rel=1e-9)


@pytest.mark.parametrize("part", REQUIRED)
def test_more_pruning_is_less_work(part):
    counts = []
    for ratio in (0.0, 0.3, 0.5, 0.7):
        config = bench_config(ratio)
        budget = bench_budget(config, FRAMES)
        even = np.full(FRAMES, budget.patches / FRAMES)
        counts.append(part_flops(config, budget, even)[part])
    assert counts == sorted(counts, reverse=True)


# ------------------------------------------------------------------------------------ the measure


def test_programs_take_turns_and_every_other_round_goes_backwards():
    calls = []
    times = race({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3)
    assert calls == list("abccbaabc")
    assert {name: len(own.clock) for name, own in times.items()} == dict.fromkeys("abc", 3)


def test_a_speedup_is_the_median_of_the_rounds_own():
    """A round in which everything was slow counts like any other."""
    baseline, other = Times(clock=[2.0, 20.0, 2.0]), Times(clock=[1.0, 10.0, 4.0])
    assert speedup(baseline, other) == 2.0


def test_share_is_measured_over_ideal():
    times = {("vit", 0.0): Times([4.0], [8.0]), ("vit", 0.5): Times([2.5], [4.0])}
    rows = result_rows(times, {("vit", 0.0): 20.0, ("vit", 0.5): 10.0})
    assert rows[1]["ideal"] == 2.0 and rows[1]["measured"] == 1.6
    assert rows[1]["share"] == pytest.approx(0.8)
    assert rows[1]["share_cores"] == pytest.approx(1.0)


def test_stages_add_up_to_the_step():
    seconds = {"vit": 2.0, "prefill": 1.0, "forward": 3.5, "step": 10.0}
    rows = [{"part": p, "ratio": 0.0, "core_seconds": s} for p, s in seconds.items()]
    assert sum(stages(rows)[0.0].values()) == 10.0
    assert stages(rows[:2]) == {}


def test_decoding_is_what_the_first_token_does_not_cost():
    long, short = Times([5.0, 9.0], [8.0, 8.0]), Times([2.0, 3.0], [4.0, 5.0])
    assert long.minus(short) == Times([3.0, 6.0], [4.0, 3.0])


def test_unequal_prompts_go_from_full_to_half_length_in_even_steps():
    config = small_config(0.5)
    budget = bench_budget(config, 15)
    batch = unequal_prompts(config, budget, 8)
    assert batch.num_images.ravel().tolist() == [15, 14, 13, 12, 11, 10, 9, 8]
    lengths = (batch.text.input_ids >= 0).sum(1)
    assert lengths[0] == budget.tokens_before
    assert lengths[-1] / lengths[0] == pytest.approx(0.52, abs=0.02)
    assert (np.diff(lengths) < 0).all() and np.ptp(np.diff(lengths)) <= 1
    patch = config.model.llm.special_token("<im_patch>")
    visual = (batch.text.input_ids == patch).sum(1)
    np.testing.assert_array_equal(visual, (batch.token_pooling >= 0).any(-1).sum(1))
    np.testing.assert_array_equal(visual, 9 * batch.num_images.ravel())


def test_prompts_are_as_long_in_the_llm_as_is_said():
    config = small_config(0.5)
    budget = bench_budget(config, 15)
    lengths = prompt_tokens(config, budget, 8)
    assert lengths[0] == budget.tokens
    batch = jax.tree.map(jnp.asarray, unequal_prompts(config, budget, 8))
    model = arbitrary_model(config.model)
    fused = jax.jit(lambda model: model.fuse(batch, budget, jax.random.key(0)))(model)
    assert fused.tokens.valid.sum(1).tolist() == lengths


def test_a_peer_s_row_says_how_much_faster_we_are_and_between_which_rounds():
    times = {
        ("forward", 0.5): Times([2.0, 2.0, 2.0], [2.0] * 3),
        ("forward", "peer"): Times([3.0, 2.0, 4.0], [3.0] * 3),
    }
    (row,) = peer_rows(times)
    assert row["times_the_peer"] == 1.5 and row["required"] == 1.4
    assert row["times_the_peer_in_rounds"] == [1.5, 1.0, 2.0]
    line = "| forward | 50% | 2.00 | 3.00 | 1.50x (1.00 to 2.00) | 1.4x |"
    assert line in peer_table([row])


def test_a_table_shows_between_which_rounds_a_speedup_lies():
    times = {
        ("vit", 0.0): Times([4.0, 4.0, 4.0], [8.0] * 3),
        ("vit", 0.5): Times([2.0, 1.0, 4.0], [4.0] * 3),
    }
    rows = result_rows(times, {("vit", 0.0): 20.0, ("vit", 0.5): 10.0})
    assert rows[1]["measured_in_rounds"] == [2.0, 4.0, 1.0]
    assert rows[1]["measured_cores_in_rounds"] == [2.0, 2.0, 2.0]
    assert "| 2.00x (1.00 to 4.00) |" in as_table(rows)


def test_the_documentation_has_the_tables_that_are_printed():
    text = (REPOSITORY / "docs" / "performance.md").read_text()
    assert as_table([]) in text and peer_table([]) in text


def test_selection_is_measured_there_and_back():
    """Gradients come back to the patches that were kept, and to every projected token."""
    config = small_config(0.5)
    budget = bench_budget(config, 4)
    batch = jax.tree.map(jnp.asarray, bench_batch(config, budget))
    inputs = selection_inputs(config, budget, batch, jnp.dtype("float32"))
    (there, features, at_places), (to_patches, to_projected), *_ = jax.jit(
        partial(selection, config, budget)
    )(None, *inputs)
    assert there[0].shape[1] >= budget.patches and features.shape[1] == budget.visual
    assert at_places.shape == (1, budget.tokens, config.model.llm.width)
    reached = (np.asarray(to_patches[0]) != 0).any(-1)
    assert reached.sum() == budget.patches < reached.size
    assert (np.asarray(to_projected) != 0).any(-1).sum() == budget.visual


def test_a_gpu_s_kernels_are_measured_where_there_is_one(monkeypatch):
    """They take bfloat16 alone; a CPU computes in float32."""
    name = bench_config(0.5).model.compute_dtype
    assert compute_dtype(name) == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_dtype(name) == jnp.bfloat16


# ------------------------------------------------------------------------------------ the command


def test_the_command_prints_a_table_and_writes_it_down(tmp_path, capsys):
    flags = ["--small", "--frames", "2", "--rounds", "1", "--ratios", "0.5", "--parts", "vit"]
    main([*flags, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "bench.json").read_text())
    assert {(row["part"], row["ratio"]) for row in report["rows"]} == {("vit", 0.0), ("vit", 0.5)}
    assert all(len(row["measured_in_rounds"]) == report["rounds"] == 1 for row in report["rows"])
    assert report["machine"]["jax"] == jax.__version__ and report["machine"]["cores"] >= 1
    assert "| vit | 50% |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_measures_all_parts_and_draws_the_stages(tmp_path, capsys):
    flags = ["--small", "--frames", "3", "--rounds", "1", "--ratios", "0.5"]
    main([*flags, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "bench.json").read_text())
    assert {(row["part"], row["ratio"]) for row in report["rows"]} == {
        (part, ratio) for part in REQUIRED for ratio in (0.0, 0.5)
    }
    assert report["selection_share_of_step"].keys() == {"0.5"}
    assert (tmp_path / "stages.png").stat().st_size > 1000
    assert "selection and packing, of a step's core time" in capsys.readouterr().out


@pytest.mark.slow
def test_decoding_of_a_batch_is_written_down(tmp_path):
    flags = ["--small", "--decode", "--frames", "2", "--rounds", "1", "--tokens", "3"]
    main([*flags, "--output", str(tmp_path)])
    rates = json.loads((tmp_path / "decode.json").read_text())
    assert rates["prompts"] == 8 and set(rates["tokens_a_second"]) == {"1", "8"}
    assert len(rates["times_one_prompt_in_rounds"]) == rates["rounds"] == 1
    assert rates["machine"]["jax"] == jax.__version__


@pytest.mark.parity_torch
def test_the_peer_has_our_logits_and_is_raced(tmp_path):
    config = small_config(0.0)
    budget = bench_budget(config, 2)
    batch = bench_batch(config, budget)
    model = VideoLanguageModel(config.model, key=jax.random.key(0))
    hidden, _ = model(jax.tree.map(jnp.asarray, batch), budget, key=jax.random.key(0))
    theirs = Peer(model, config, batch).logits()[..., : config.model.llm.vocab_size]
    np.testing.assert_allclose(model.llm.logits(hidden), theirs, atol=2e-5)
    main(["--small", "--peer", "--frames", "2", "--rounds", "1", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "peer.json").read_text())
    assert {(row["part"], row["ratio"]) for row in report["rows"]} == set(REQUIRED_OF_PEER)
    assert report["rounds"] == 1 and report["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ratios", "1.0"], "--ratios has 1.0"),
        (["--frames", "1"], "--frames is 1"),
        (["--rounds", "0"], "--rounds 0"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        main(flags)


def test_configurations_differ_in_the_prune_alone():
    pruned, whole = bench_config(0.3).model, bench_config(0.0).model
    assert dataclasses.replace(pruned, prune=whole.prune) == whole
