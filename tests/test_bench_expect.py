"""The ideal model: FLOPs and bytes of a forward pass, and what chips need for both."""

from __future__ import annotations

from pathlib import Path

import pytest

from stts_jax.bench.expect import main, with_ratio
from stts_jax.bench.operations import Operation, operations
from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config, ConfigError, load_config
from stts_jax.fit.hardware import CHIPS
from stts_jax.training.flops import forward_flops

DOCS = Path(__file__).parents[1] / "docs" / "performance.md"
SETUPS = ("molmo2_4b", "molmo2_o_7b", "tiny")


def setup(name: str, ratio: float) -> tuple[Config, Budget]:
    """A setup that drops `ratio`, and a row of one video of 8 frames."""
    config = with_ratio(load_config(name), ratio)
    return config, video_budget(config.model, frames=8, videos=1, text_tokens=50)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("name", SETUPS)
def test_operations_have_all_flops_of_the_forward_pass(name, ratio):
    config, budget = setup(name, ratio)
    counted = operations(config.model, budget)
    assert all(own.bytes > 0 for own in counted)
    for part, flops in forward_flops(config.model, budget).items():
        assert sum(own.flops for own in counted if own.part == part) == pytest.approx(flops), part


def test_bytes_of_a_block_s_mlp_written_out():
    """Kernels once; of each patch input, residual and output, and what is between the products."""
    config, budget = setup("molmo2_4b", 0.0)
    vit = config.model.vit
    (mlp,) = (
        own
        for own in operations(config.model, budget)
        if own.part == "vit_before" and own.name == "mlp"
    )
    patches = budget.frames * vit.patches
    places = patches * (3 * vit.width + 2 * vit.mlp_width)
    assert mlp.bytes == 2 * vit.depth * (places + 2 * vit.width * vit.mlp_width)


def test_bytes_of_the_llm_s_attention_are_those_of_its_inputs_and_output():
    config, budget = setup("molmo2_4b", 0.0)
    llm = config.model.llm
    (attention,) = (
        own
        for own in operations(config.model, budget)
        if own.part == "llm" and own.name == "attention"
    )
    heads = 2 * llm.heads + 2 * llm.kv_heads
    assert attention.bytes == 2 * llm.layers * budget.tokens * heads * llm.head_dim


def test_more_pruning_moves_less():
    moved = []
    for ratio in (0.0, 0.3, 0.5, 0.7):
        config, budget = setup("molmo2_4b", ratio)
        moved.append(sum(own.bytes for own in operations(config.model, budget)))
    assert moved == sorted(moved, reverse=True)


def test_an_operation_takes_the_longer_of_arithmetic_and_memory():
    chip = next(iter(CHIPS.values()))
    assert Operation("llm", "mlp", chip.flops, 0.0).seconds(chip) == 1.0
    assert Operation("llm", "mlp", chip.flops, 3 * chip.memory_rate).seconds(chip) == 3.0


def test_the_docs_have_the_tables_that_the_command_prints(capsys):
    main([])
    printed = capsys.readouterr().out.strip().split("\n\n")
    written = DOCS.read_text()
    for table in (text for text in printed if text.startswith("|")):
        assert table in written, f"make it again: python -m stts_jax.bench.expect\n{table}"


def test_a_video_too_short_to_prune_is_refused():
    with pytest.raises(ConfigError, match="--frames is \\[1\\]"):
        main(["--frames", "1"])
