"""Counts of dropped tokens, and the static sizes of rows."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from config_cases import SIZES, P, scorer
from goldens_folder import goldens_dir

from stts_jax.budget import (
    Budget,
    MultimodalType,
    batch_arrays,
    row_budget,
    surviving_patches,
    surviving_tokens,
    tokens_to_prune,
    video_budget,
)
from stts_jax.config import (
    PruneConfig,
    load_config,
)

VIDEO = int(MultimodalType.VIDEO)


def counts(frames: list[int], prune: PruneConfig, kind: int = VIDEO) -> list[int]:
    n = np.array(frames, np.int32)
    return tokens_to_prune(n, np.full_like(n, kind), prune, P).tolist()


class TestTokensToPrune:
    def test_the_product_is_float32(self) -> None:
        """Double precision gives 1700 and 8019."""
        assert counts([30], scorer(0.7)) == [1701]
        assert counts([330], scorer(0.3)) == [8018]

    def test_it_is_cut_towards_zero(self) -> None:
        assert counts([1, 2, 3], scorer(0.5)) == [40, 81, 121]
        assert counts([1], scorer(0.3)) == [24]

    @pytest.mark.parametrize("kind", [-1, *(k for k in MultimodalType if k != VIDEO)])
    def test_only_videos_lose_tokens(self, kind: int) -> None:
        assert counts([0, 1, 8, 64], scorer(0.5), kind) == [0, 0, 0, 0]

    def test_padding_and_empty_examples_lose_none(self) -> None:
        assert counts([-1, 0], scorer(0.5)) == [0, 0]

    def test_no_method_removes_nothing(self) -> None:
        assert counts([-1, 0, 1, 64], PruneConfig()) == [0, 0, 0, 0]

    def test_every_method_removes_the_same(self) -> None:
        for method in ("heuristic", "easy", "random"):
            assert counts([30], PruneConfig(method=method, topk=0.7)) == [1701]

    def test_prune_from_frame_shortens_the_count(self) -> None:
        prune = scorer(0.5, prune_from_frame=8)
        assert counts([1, 8, 9, 10, 18], prune) == [0, 0, 40, 81, 405]

    def test_protected_first_frame_is_never_asked_for(self) -> None:
        """One frame has nothing else to give, two frames at 0.7 only 81 of the 113 asked for."""
        assert counts([1, 2, 3], scorer(0.7)) == [56, 113, 170]
        assert counts([1, 2, 3], scorer(0.7, protect_first_frame=True)) == [0, 81, 162]
        assert counts([1, 2, 3], scorer(0.5, protect_first_frame=True)) == [0, 81, 121]

    @pytest.mark.parametrize("protect_first_frame", [False, True])
    @pytest.mark.parametrize("prune_from_frame", [0, 8])
    @pytest.mark.parametrize("topk", [0.1, 0.3, 0.5, 0.7])
    def test_numpy_and_jax_agree(
        self, topk: float, prune_from_frame: int, protect_first_frame: bool
    ) -> None:
        prune = scorer(
            topk, prune_from_frame=prune_from_frame, protect_first_frame=protect_first_frame
        )
        n = np.tile(np.arange(385, dtype=np.int32)[:, None], (1, 5))
        kinds = np.broadcast_to(np.arange(-1, 4, dtype=np.int32), n.shape)
        expected = tokens_to_prune(n, kinds, prune, P)
        eager = tokens_to_prune(jnp.asarray(n), jnp.asarray(kinds), prune, P)
        jitted = jax.jit(lambda n, kinds: tokens_to_prune(n, kinds, prune, P))(n, kinds)
        assert expected.dtype == eager.dtype == jitted.dtype == np.int32
        np.testing.assert_array_equal(expected, eager)
        np.testing.assert_array_equal(expected, jitted)

    def test_counts_that_the_reference_gave(self) -> None:
        recorded = np.load(goldens_dir() / "prune_counts.npz")
        n = recorded["num_images"].astype(np.int32)
        cases = json.loads(str(recorded["meta"]))
        assert cases
        for case in cases:
            prune = scorer(case["topk"], prune_from_frame=case["prune_from_frame"])
            found = tokens_to_prune(n, np.full_like(n, VIDEO), prune, P)
            np.testing.assert_array_equal(found, recorded[str(case["i"])], err_msg=str(case))


class TestBudgets:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        ("suffix", "tokens"),
        [("", 15670), ("_stts_30", 12560), ("_stts_40", 11524), ("_stts_50", 10486)],
    )
    def test_rows_of_the_paper(self, size: str, suffix: str, tokens: int) -> None:
        """Row lengths that the reference trains 128 frames with, at each ratio."""
        config = load_config(size + suffix)
        budget = row_budget(config.model, config.data)
        assert (budget.frames, budget.examples) == (128, 2)
        assert (budget.tokens, budget.tokens_before) == (tokens, 15670)
        assert (budget.text, budget.visual_before) == (5302, 128 * P)
        assert budget.patches == budget.visual * 9

    def test_survivors_of_a_video(self) -> None:
        model = load_config("molmo2_4b_stts_30", ["model.prune.topk=0.7"]).model
        assert surviving_tokens(30, model) == 30 * P - 1701
        assert surviving_patches(30, model) == (30 * P - 1701) * 9

    def test_patches_stay_when_pruned_only_at_the_connector(self) -> None:
        model = load_config("molmo2_4b_stts_50", ["model.prune.pruning_in_scorer=false"]).model
        assert surviving_patches(10, model) == 10 * 729
        assert surviving_tokens(10, model) == 10 * P - 405

    def test_row_of_equal_videos(self) -> None:
        model = load_config("molmo2_4b_stts_50").model
        assert video_budget(model, frames=5, videos=3, text_tokens=100) == Budget(
            frames=15,
            examples=3,
            patches=3 * (5 * P - 202) * 9,
            visual=3 * (5 * P - 202),
            visual_before=15 * P,
            tokens=3 * (5 * P - 202) + 100,
            tokens_before=15 * P + 100,
        )

    def test_without_pruning_before_and_after_are_alike(self) -> None:
        config = load_config("molmo2_4b")
        budget = row_budget(config.model, config.data)
        assert (budget.visual, budget.tokens) == (budget.visual_before, budget.tokens_before)
        assert budget.patches == 128 * 729

    def test_arrays_of_a_batch(self) -> None:
        config = load_config("tiny")
        budget = row_budget(config.model, config.data)
        arrays = batch_arrays(budget, config.model, rows=4)
        shapes = {name: shape for name, (shape, _) in arrays.items()}
        assert shapes["images"] == (4, 8, 36, 192)
        assert shapes["num_images"] == shapes["multimodal_type"] == (4, 1)
        assert shapes["token_pooling"] == (4, 72, 4)
        assert shapes["input_ids"] == shapes["loss_masks"] == (4, budget.tokens_before) == (4, 248)
        assert arrays["images"][1] == np.uint8
        assert arrays["loss_masks"][1] == np.float32
