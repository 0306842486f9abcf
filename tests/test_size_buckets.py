"""Size buckets: few programs for all ratios, and a result that doesn't depend on the bucket."""

import dataclasses
import itertools
from functools import partial

import jax
import numpy as np
import pytest
from model_cases import BUDGET, KEY, SMALL, numpy_rows, rows, small_model
from model_cases import small_model_config as small
from model_checks import LOGITS, forward
from random_batches import VIDEO
from reference_cases import worst

from stts_jax.budget import surviving_tokens, tokens_to_prune
from stts_jax.config import load_config
from stts_jax.inference.adaptive import generate_adaptive
from stts_jax.inference.decoding import generate
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import vision_encoder
from stts_jax.size_buckets import (
    RATIOS,
    SMALLEST_RATIO,
    adaptive_budgets,
    at_bucket,
    bucket_of,
    with_counts,
)

PERCENT = [k / 100 for k in range(100)]
# Between two buckets.
RATIO = 0.55
# Of rows of which nothing is dropped.
ROOMY = dataclasses.replace(
    BUDGET, patches=BUDGET.frames * 81, visual=BUDGET.visual_before, tokens=BUDGET.tokens_before
)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9])
def test_the_usual_ratios_are_buckets(ratio):
    assert bucket_of(ratio) == ratio


def test_a_ratio_has_the_bucket_below_it():
    assert [bucket_of(r) for r in (0.001, 0.05, 0.33, 0.69, 0.78, 0.99)] == [
        *(SMALLEST_RATIO, SMALLEST_RATIO, 0.3, 0.6, 0.75, 0.975)
    ]
    assert {bucket_of(ratio) for ratio in PERCENT} == {*RATIOS}


@pytest.mark.parametrize("frames", [1, 7, 64, 384])
def test_a_bucket_holds_what_its_ratios_keep_and_little_more(frames):
    model = load_config("molmo2_4b_stts_50").model
    for ratio in PERCENT:
        prune = dataclasses.replace(model.prune, topk=ratio)
        own = dataclasses.replace(model, prune=prune)
        kept, room = (surviving_tokens(frames, m) for m in (own, at_bucket(own)))
        assert kept <= room
        assert room <= 4 / 3 * kept + 1 or ratio >= 0.925


def at(ratio, layout):
    return small(prune__layout=layout, prune__topk=ratio)


def logits_of(ratio, layout, budget=BUDGET, counts_of=None):
    """Logits by position before the drop, in a model that is compiled for a ratio."""
    batch = numpy_rows()
    if counts_of is not None:
        batch = with_counts(batch, at(counts_of, layout))
    model = small_model(at(ratio, layout))
    _, (logits, fused) = forward(model, jax.tree.map(np.asarray, batch), budget, KEY, False)
    valid, source = np.asarray(fused.tokens.valid), np.asarray(fused.source)
    return [np.asarray(logits)[row][valid[row]] for row in range(len(valid))], [
        source[row][valid[row]] for row in range(len(valid))
    ]


@pytest.mark.parametrize("layout", ["stream", pytest.param("first_fit", marks=pytest.mark.slow)])
def test_the_result_does_not_depend_on_the_bucket(layout, report_error):
    assert bucket_of(RATIO) == 0.5
    exact, tokens = logits_of(RATIO, layout)
    for ratio, budget in ((0.5, BUDGET), (SMALLEST_RATIO, ROOMY)):
        found, seen = logits_of(ratio, layout, budget, counts_of=RATIO)
        assert all(map(np.array_equal, seen, tokens))
        error = max(map(worst, found, exact))
        report_error("logits", error, LOGITS)
        assert error < LOGITS


@pytest.mark.parametrize(("in_vit", "biased"), [(True, False), (False, True)])
def test_the_bias_of_a_model_over_ratios_ends_with_its_block_at_0_too(in_vit, biased):
    """As at a ratio just above 0, unless the ViT keeps every patch at any ratio."""
    changes = {"prune__topk": 0.0, "prune__train_ratios": (0.0, 0.5)}
    model = small_model(small(**changes, prune__pruning_in_scorer=in_vit))
    encode = partial(vision_encoder(model), key=KEY)
    after = jax.eval_shape(lambda batch: encode(batch, ROOMY), numpy_rows()).plan.layout
    assert (after.key_bias is not None) == biased


def test_a_batch_says_the_counts_that_the_model_would_compute():
    config, batch = at(RATIO, "stream"), numpy_rows()
    counts = with_counts(batch, config).to_prune
    expected = tokens_to_prune(batch.num_images, batch.multimodal_type, config.prune, 9)
    assert (counts == expected).all() and counts.dtype == np.int32 and counts.any()


def test_requests_at_any_ratio_of_a_bucket_run_one_program():
    """What a program is compiled for: the model's structure, and shapes of the batch."""
    ratios = (0.5, 0.51, 0.55, 0.599)
    configs = {at_bucket(at(ratio, "stream")) for ratio in ratios}
    shapes = {
        str(jax.tree.map(np.shape, with_counts(numpy_rows(), at(ratio, "stream"))))
        for ratio in ratios
    }
    assert len(configs) == len(shapes) == 1


# ---------------------------------------------------------------------------------- a threshold


def test_budgets_of_a_threshold_grow_to_a_row_of_which_nothing_is_dropped():
    budgets = adaptive_budgets(ROOMY, patches=81)
    assert budgets[-1] == ROOMY
    for smaller, larger in itertools.pairwise(budgets):
        assert smaller.visual < larger.visual and smaller.patches < larger.patches
        assert smaller.text == larger.text == ROOMY.text


def answers(batch, threshold, ways):
    config = at_bucket(small(prune__threshold=threshold))
    model = small_model(config)
    options = {"max_new_tokens": 2, "end_token": 1, "sampling": Sampling(), "key": KEY}
    return [generate(model, batch, ROOMY, **options) for generate in ways]


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_answers_in_a_bucket_are_those_with_room_for_all(threshold):
    batch = with_counts(rows(kinds=(VIDEO,), max_frames=6), SMALL)
    (tokens, kept), plain = answers(batch, threshold, (generate_adaptive, generate))
    assert (np.asarray(tokens) == np.asarray(plain)).all()
    _, more = answers(batch, 0.01, (generate_adaptive,))[0]
    assert (np.asarray(kept) <= np.asarray(more)).all()
