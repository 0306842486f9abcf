"""The ratio of each step, and rows that are filled to the budget of their step's ratio."""

import itertools
import json
from collections import Counter

import grain
import jax
import numpy as np
import pytest
from test_data_packing import READING, Numbers, item_of, numbers_in, stream_of

from stts_jax.budget import batch_arrays
from stts_jax.config import ConfigError, load_config
from stts_jax.data.packing.fill_rates import FillRates
from stts_jax.data.packing.ratio_rows import RowNumbers, pack_ratio_rows
from stts_jax.data.packing.rows import SIZES, BudgetError, row_sizes, stack_rows
from stts_jax.train_ratios import RatioDraw, StepSizes, at_ratio, step_budget

RATIOS = (0.0, 0.3, 0.5, 0.7, 0.8)
OVER_RATIOS = f"model.prune.train_ratios={list(RATIOS)}"
ROWS = 2


def config_of(*overrides):
    """Rows of several videos, pictures and texts, and ratios that pack them differently."""
    room = ("data.row_frames=16", "data.row_examples=6", "data.row_text_tokens=120")
    size = ("model.vit.image_size=64", "model.vit.positions=64")
    return load_config("tiny", [*size, *room, OVER_RATIOS, *overrides])


def draws(steps, *overrides):
    draw = RatioDraw.of(config_of(*overrides))
    return [draw.ratio_of(step) for step in range(steps)]


# -------------------------------------------------------------------------------------- the draw


def test_the_draw_depends_on_seed_and_step_alone():
    assert draws(50) == draws(50, "data.seed=3", "train.steps=9", "model.prune.topk=0.1")
    assert draws(50) != draws(50, "train.seed=1")


def test_a_draw_of_a_later_version_is_the_same():
    assert draws(10) == [0.5, 0.7, 0.0, 0.7, 0.3, 0.8, 0.5, 0.8, 0.5, 0.5]


def test_ratios_are_drawn_alike_or_by_their_weights():
    counts = Counter(draws(5000))
    assert set(counts) == set(RATIOS)
    assert all(abs(count - 1000) < 100 for count in counts.values())
    weighted = Counter(draws(5000, "model.prune.train_ratio_weights=[2, 1, 1, 1, 5]"))
    assert abs(weighted[0.0] - 1000) < 100 and abs(weighted[0.8] - 2500) < 150


def test_a_fixed_ratio_is_that_of_every_step():
    assert set(draws(20, "model.prune.train_ratios=[]", "model.prune.topk=0.4")) == {0.4}


def test_ratios_are_listed_by_their_first_use():
    draw = RatioDraw.of(config_of())
    expected = list(dict.fromkeys(draw.ratio_of(step) for step in range(3, 100)))
    assert draw.by_first_use(3, 100) == expected
    assert draw.by_first_use(3, 4) == expected[:1]


# ------------------------------------------------------------------------------------- the sizes


def test_a_batch_has_the_same_shapes_at_every_ratio():
    config = config_of()
    sizes = StepSizes.of(config)
    shapes = [batch_arrays(sizes.budgets[r], sizes.models[r], ROWS) for r in RATIOS]
    assert all(shape == shapes[0] for shape in shapes)


def test_a_step_is_cheaper_at_a_higher_ratio():
    budgets = [step_budget(config_of(), ratio) for ratio in RATIOS]
    for before, after in itertools.pairwise(budgets):
        assert after.patches < before.patches and after.tokens < before.tokens
        assert after.frames == before.frames and after.examples == before.examples


def test_the_devices_of_a_row_share_its_tokens_at_every_ratio():
    config = config_of("train.mesh.context=8")
    assert all(step_budget(config, ratio).tokens % 8 == 0 for ratio in RATIOS)


def test_the_steps_of_a_ratio_have_its_configuration():
    own = at_ratio(config_of("data.topk=0.5"), 0.7)
    assert own.model.prune.topk == 0.7 and own.model.prune.train_ratios == RATIOS
    assert own.model.prune.biases_keys and at_ratio(own, 0.0).model.prune.biases_keys


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.prune.train_ratios=[0.5, 1.0]"], "train_ratios has 1.0; each is the fraction"),
        (["model.prune.train_ratios=[0.5, 0.5]"], "name each ratio once"),
        (["model.prune.train_ratio_weights=[1, 2]"], "a weight above 0 for each of the 5"),
        (["model.prune.method=none", "model.prune.topk=0"], "method is 'none', which removes"),
        ([f"model.prune.train_ratios={[i / 20 for i in range(17)]}"], "use at most 16"),
    ],
)
def test_ratios_that_cannot_be_trained_over_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config_of(*overrides)


# -------------------------------------------------------------------------------------- the rows


def packed(count, first_step=0, config=None):
    sizes = StepSizes.of(config or config_of())
    items = [item_of(number) for number in range(count)]
    return list(pack_ratio_rows(stream_of(items), sizes, RowNumbers(ROWS, first_step)))


@pytest.mark.parametrize("first_step", [0, 7])
def test_a_row_is_filled_to_the_budget_of_its_step(first_step):
    sizes = StepSizes.of(config_of())
    fill = FillRates(sizes.budgets[0.5])
    for number, row in enumerate(packed(400, first_step)):
        ratio = sizes.draw.ratio_of(first_step + number // ROWS)
        used = row_sizes(stack_rows([row]), sizes.models[ratio])
        for key in (*SIZES, "examples"):
            assert used[key][0] <= getattr(sizes.budgets[ratio], key), key
        fill.add(used, sizes.budgets[ratio])
    assert fill.as_dict()["frames"] > 0.6 and fill.as_dict()["tokens"] > 0.8


def test_every_example_is_in_one_row():
    assert sorted(n for row in packed(100) for n in numbers_in(row)) == list(range(100))


def test_an_example_that_does_not_fit_at_every_ratio_is_an_error():
    with pytest.raises(BudgetError, match=r"of 'tokens at 80 %'"):
        packed(20, config=config_of("data.row_text_tokens=20"))


def batches(part=0, parts=1, first_step=0):
    stream = grain.MapDataset.source(Numbers())[part::parts].to_iter_dataset(READING)
    sizes, numbers = StepSizes.of(config_of()), RowNumbers(ROWS, first_step)
    stream = pack_ratio_rows(stream, sizes, numbers).batch(ROWS, batch_fn=stack_rows)
    return iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=2))


@pytest.mark.parametrize("seen", [0, 5])
def test_the_next_batch_after_a_restart_is_the_one_that_was_next(seen):
    stream = batches()
    for _ in range(seen):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    expected = [next(stream) for _ in range(4)]
    stream.close()
    again = batches(first_step=3)  # which the state overrules
    again.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(again), batch)
    again.close()
