"""Remedies for an example that fits no row make it fit."""

import re

import pytest
from largest_sizes import largest_group_sizes

from stts_jax.budget import row_budget
from stts_jax.config import load_config, replace
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.packing.row_remedies import remedy
from stts_jax.data.packing.rows import excess
from stts_jax.data.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load("tiny", 512)
PRUNED = [f"molmo2_{size}_stts_{share}" for size in ("4b", "8b", "o_7b") for share in (30, 40, 50)]


def picture_sizes(config, images, crops=None):
    """Sizes of an example of so many pictures of full crops, at most."""
    settings = ImageSettings(max_images=images, max_group_crops=crops or config.data.max_crops)
    most = largest_group_sizes(settings, TOKENIZER)
    visual = {"visual": most.pooled, "visual_before": most.pooled}
    text = {"tokens": most.tokens, "tokens_before": most.tokens}
    patches = {"patches": most.crops * config.model.vit.patches}
    return {"frames": most.crops, **patches, **visual, **text}


def overrides_in(said):
    """Each of the remedies in a sentence, as settings."""
    found = []
    for part in said.split(", or "):
        found.append({k: int(v) for k, v in re.findall(r"(data\.\w+) to (\d+)", part)})
    return found


@pytest.mark.parametrize("name", ["molmo2_4b", "molmo2_8b", "molmo2_o_7b", *PRUNED])
def test_a_row_of_each_setup_holds_as_many_pictures_as_it_allows(name):
    config = load_config(name)
    sizes = picture_sizes(config, config.data.max_images)
    assert excess(sizes, row_budget(config.model, config.data)) is None


@pytest.mark.parametrize(
    ("name", "sets", "images"),
    [
        ("molmo2_4b_stts_50", [], 5),
        ("molmo2_4b_stts_40", [], 5),
        ("molmo2_4b_stts_50", ["data.row_examples=1", "data.max_frames=32"], 3),
        ("molmo2_4b", ["data.row_frames=64"], 12),
    ],
)
def test_what_is_said_of_pictures_makes_them_fit(name, sets, images):
    config = load_config(name, sets)
    sizes = picture_sizes(config, images)
    assert excess(sizes, row_budget(config.model, config.data)) is not None

    def with_crops(count):
        return picture_sizes(config, images, count)

    said = remedy(sizes, config.model, config.data, with_crops)
    assert overrides_in(said)
    for change in overrides_in(said):
        changed = replace(config, change)
        again = with_crops(changed.data.max_crops)
        assert excess(again, row_budget(changed.model, changed.data)) is None, change


def test_rows_of_more_frames_alone_are_not_said_to_help_where_they_do_not():
    config = load_config("tiny", ["data.row_frames=32"])
    budget = row_budget(config.model, config.data)
    sizes = {"frames": 30, "patches": 100, "visual": 2 * budget.visual, "visual_before": 100}
    said = remedy({**sizes, "tokens": 100, "tokens_before": 100}, config.model, config.data)
    assert said == "raise data.row_examples to 4"


def test_a_long_text_is_told_how_much_room_it_takes():
    config = load_config("tiny")
    budget = row_budget(config.model, config.data)
    sizes = {name: getattr(budget, name) for name in ("frames", "patches", "visual")}
    sizes |= {"visual_before": budget.visual_before, "tokens": budget.tokens + 10}
    said = remedy({**sizes, "tokens_before": budget.tokens_before}, config.model, config.data)
    room = config.data.row_text_tokens + 10
    assert said == f"raise data.row_text_tokens to {room}, or shorten it"


def test_what_no_row_can_hold_is_to_be_left_out():
    config = load_config("tiny")
    sizes = dict.fromkeys(("frames", "patches", "visual", "visual_before", "tokens"), 10**9)
    assert remedy({**sizes, "tokens_before": 1}, config.model, config.data) == "leave it out"
