"""Whole examples, from annotations and media to arrays, against recorded cases of the reference."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens_folder import SHARED, goldens_data_dir
from qwen3_tokenizer import recorded_tokenizer
from segment_visibility import assert_same_visibility

from stts_jax.budget import MultimodalType
from stts_jax.config import ModelConfig
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import (
    ExampleChain,
    ExampleSettings,
    PreparedExample,
    example_rng,
)
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.media import Media
from stts_jax.data.text.formatting import FormatterSettings
from stts_jax.data.text.message_arrays import TextSettings
from stts_jax.data.text.message_weight import LOSS_WEIGHTS, MessageWeight
from stts_jax.data.video.frame_sampling import FrameSampler, SamplingError, TimeSampler
from stts_jax.data.video.reading import Video
from stts_jax.data.video.settings import VideoSettings

CASES = json.loads((goldens_data_dir() / "example_preprocessor.json").read_text())
# What `images_slice` keeps, by the README of the recorded cases.
SLICE_PATCHES, SLICE_VALUES = [0, 364, 728], [0, 1, 2, 41, 300, 587]
LOSS_TOLERANCE = 1e-6  # relative; measured: 1.1e-7
# Pixels and their mean, in levels. Rounding of halves goes either way, decoders differ by more.
# Measured: pixels 0, and 8e-6 where the reference normalises; mean 4e-5, of files 1e-5.
ON_RECIPES, ON_FILES = (1.0, 0.008), (2.0, 0.5)
MODES = {"train": "train", "eval_loss": "eval", "inference": "inference"}
SAMPLER_FIELDS = {f.name for kind in (TimeSampler, FrameSampler) for f in dataclasses.fields(kind)}

# Settings of the reference by ours. What is not here is an error, so that no case passes by chance.
TEXT_FIELDS = {
    "max_answer_len": "max_answer_tokens",
    "last_message_loss_only": "last_answer_only",
    "max_text_tokens": "max_text_tokens",
}
IMAGE_FIELDS = {
    "max_images": "max_images",
    "max_crops": "max_crops",
    "high_res_max_crops": "high_res_max_crops",
    "p_high_res": "p_high_res",
    "max_multi_image_crops": "max_group_crops",
    "crop_mode": "crop_mode",
    "use_col_tokens": "column_tokens",
    "use_single_crop_col_tokens": "global_column_tokens",
    "use_single_crop_start_token": "global_start_token",
}
VIDEO_FIELDS = {
    "max_fps": "max_fps",
    "frame_sample_mode": "frame_sample_mode",
    "time_mode": "time_mode",
    "subtitle_mode": "subtitle_mode",
    "max_subtitle_tokens": "max_subtitle_tokens",
    "use_frame_special_tokens": "use_frame_special_tokens",
}


# ------------------------------------------------------------------------------------ settings


def renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in values.items()}


def settings_of(case: dict[str, Any]) -> ExampleSettings:
    config = dict(CASES["configs"][case["config"]])
    config.pop("gpu", None)  # where the reference normalises, we leave that to the model
    image, video = dict(config.pop("img", {})), dict(config.pop("video", {}))
    text, formatter = dict(config.pop("text", {})), config.pop("fmt", {})
    assert not config, config
    weighting = text.pop("loss_token_weighting", "root_subsegments_root_tokens") or "uniform"
    several = image.get("max_images", 5) is not None
    if not several:
        del image["max_images"]
    around = "frame" if video.pop("per_frame_special_token", False) else "video"
    return ExampleSettings(
        images=ImageSettings(**renamed(image, IMAGE_FIELDS)),
        video=VideoSettings(
            **{"max_frames": case["max_frames"], "max_fps": (2,), "frame_tokens": around}
            | renamed(video, VIDEO_FIELDS)
        ),
        formatter=dataclasses.replace(FormatterSettings(), **formatter),
        text=TextSettings(
            LOSS_WEIGHTS[weighting],
            max_sequence_length=case["max_seq_len"],
            **renamed(text, TEXT_FIELDS),
        ),
        several_images=several,
    )


def weight_of(recorded: Any) -> Any:
    if isinstance(recorded, list):
        return [weight_of(one) for one in recorded]
    if isinstance(recorded, dict):
        return MessageWeight(**{"constant" if k == "weight" else k: v for k, v in recorded.items()})
    return recorded


# ------------------------------------------------------------------------------------- examples


def image_of(recipe: dict[str, Any]) -> np.ndarray:
    height, width = recipe["h"], recipe["w"]
    if recipe["kind"] == "noise":
        values = np.random.RandomState(recipe["seed"]).randint(0, 256, size=(height, width, 3))
        return values.astype(np.uint8)
    assert recipe["kind"] == "linear", recipe
    (a, b, d), (y, x, c) = recipe["abc"], np.ogrid[:height, :width, :3]
    return ((a * y + b * x + d * c + (y * x) // recipe["div"]) % 256).astype(np.uint8)


def video_of(recipe: dict[str, Any]) -> Video:
    shape = (recipe["n"], recipe["h"], recipe["w"], 3)
    frames = np.random.RandomState(recipe["seed"]).randint(0, 256, size=shape)
    return Video(frames.astype(np.uint8), np.array(recipe["ts"], np.float64))


def media_of(example: dict[str, Any]) -> Media:
    recipes = example.get("image", [])
    recipes = recipes if isinstance(recipes, list) else [recipes]
    video = video_of(example["video"]) if "video" in example else None
    return Media(tuple(image_of(recipe) for recipe in recipes), video)


def subtitle_of(recorded: Any) -> Any:
    if isinstance(recorded, dict):
        return {tuple(map(float, span.split("|"))): text for span, text in recorded.items()}
    return recorded


def source_of(example: dict[str, Any]) -> SourceExample:
    """The example without its media, but for the path of a video file."""
    about = {key: example[key] for key in example if key not in ("image", "video", "weight")}
    metadata, subtitle = about.pop("metadata", {}), about.pop("subtitle", None)
    annotations = about.pop("message_list", None) or [about]
    video = example.get("video")
    if isinstance(video, dict):
        subtitle = video.get("subtitle")
    return SourceExample(
        annotations=tuple(annotations),
        video=SHARED / "clips" / video if isinstance(video, str) else None,
        subtitle=subtitle_of(subtitle),
        metadata=known_overrides(metadata),
    )


def known_overrides(metadata: dict[str, Any]) -> dict[str, Any]:
    """Without overrides that no sampler knows: the reference drops them, here they are errors."""
    overrides = metadata.get("sampler_overrides")
    if overrides is None:
        return metadata
    known = {key: value for key, value in overrides.items() if key in SAMPLER_FIELDS}
    return {**metadata, "sampler_overrides": known}


def prepare(case: dict[str, Any], rng: np.random.RandomState) -> PreparedExample:
    """The case by our chain. Media that are recipes are made, and go around the files."""
    chain = ExampleChain(ModelConfig(), recorded_tokenizer(), settings_of(case))
    example, mode = case["example"], MODES[case["mode"]]
    source = source_of(example)
    if source.video is not None:
        media = chain.load(source, rng if mode == "train" else None)
    else:
        media = media_of(example)
    return chain.prepare(source, media, mode, rng, weight_of(example.get("weight")))


# ---------------------------------------------------------------------------------------- tests


@functools.cache
def recorded_arrays() -> dict[str, np.ndarray]:
    with np.load(goldens_data_dir() / "example_preprocessor.npz") as arrays:
        return dict(arrays)


def case_id(case: dict[str, Any]) -> str:
    index, epoch = case["rng"]
    return f"{case['name']}-{case['config']}-{case['mode']}-{index}-{epoch}"


def passing_or_failing(failing: bool) -> list[Any]:
    cases = [case for case in CASES["cases"] if ("error" in case) == failing]
    return [pytest.param(case, id=case_id(case)) for case in cases]


@pytest.mark.parametrize("case", passing_or_failing(failing=True))
def test_data_parity_example_is_refused(case):
    with pytest.raises(ValueError):
        prepare(case, example_rng(*case["rng"]))


@pytest.mark.parametrize("case", passing_or_failing(failing=False))
def test_data_parity_example(case, report_error):
    rng = example_rng(*case["rng"])
    prepared = prepare(case, rng)
    assert rng.random() == case["next_rng_random"]
    expected = {
        name: recorded_arrays()[f"{case['key']}_{name}"]
        for name in case["arrays"]
        if name != "images"
    }
    check_text(prepared.arrays, expected, report_error)
    check_vision(prepared.arrays, expected, case, report_error)
    check_metadata(prepared.metadata, case)


def check_text(found, expected, report_error):
    np.testing.assert_array_equal(found["input_ids"], expected["input_tokens"])
    np.testing.assert_array_equal(found["labels"], expected["target_tokens"])
    np.testing.assert_array_equal(found["position_ids"], expected["position_ids"])
    # The reference gives plain conversations no ids; here all of their tokens share one.
    segments = expected.get("subsegment_ids", np.zeros_like(expected["input_tokens"]))
    assert_same_visibility(found["subsegment_ids"], segments)
    loss, weights = found["loss_masks"], expected["loss_masks"].astype(np.float64)
    np.testing.assert_array_equal(loss == 0, weights == 0)
    worst = (np.abs(loss - weights) / np.where(weights == 0, 1, weights)).max()
    report_error("loss weight", worst, LOSS_TOLERANCE)
    assert worst <= LOSS_TOLERANCE


def check_vision(found, expected, case, report_error):
    kind, summary = kind_of(case["example"]), case["arrays"].get("images")
    assert found["multimodal_type"].tolist() == [kind]
    assert found["num_images"].tolist() == [len(found["images"])]
    if summary is None:
        assert len(found["images"]) == len(found["token_pooling"]) == 0
        return
    assert list(found["images"].shape) == summary["shape"]
    width = expected["token_pooling"].shape[1]
    np.testing.assert_array_equal(found["token_pooling"][:, :width], expected["token_pooling"])
    assert (found["token_pooling"][:, width:] == -1).all()
    for name, key in (
        ("cum_token_pooling_bounds", "token_pooling"),
        ("cum_image_bounds", "images"),
    ):
        if name in expected:
            assert expected[name].tolist() == [len(found[key])]
    check_pixels(found["images"], summary, case, report_error)


def check_pixels(patches, summary, case, report_error):
    values = recorded_arrays()[f"{case['key']}_images_slice"].astype(np.float64)
    mean = summary["sum"] / patches.size
    if summary["dtype"] != "uint8":  # from -1 to 1
        values, mean = (values + 1) * 127.5, (mean + 1) * 127.5
    from_file = isinstance(case["example"].get("video"), str)
    allowed, allowed_of_mean = ON_FILES if from_file else ON_RECIPES
    of = "files" if from_file else "recipes"
    worst = np.abs(patches[:, SLICE_PATCHES][:, :, SLICE_VALUES] - values).max()
    worst_of_mean = abs(patches.mean(dtype=np.float64) - mean)
    report_error(f"pixels of {of} (levels)", worst, allowed)
    report_error(f"mean of pixels of {of} (levels)", worst_of_mean, allowed_of_mean)
    assert worst <= allowed
    assert worst_of_mean <= allowed_of_mean


def kind_of(example):
    if "video" in example:
        return MultimodalType.VIDEO
    if "image" not in example:
        return MultimodalType.TEXT
    several = isinstance(example["image"], list) and len(example["image"]) > 1
    return MultimodalType.MULTI_IMAGE if several else MultimodalType.IMAGE


def check_metadata(found, case):
    expected = known_overrides(case["metadata"] or {})
    # The reference has a form of its own for a list of one image.
    if len(expected.get("image_group_size", ())) == 1:
        expected["image_size"] = expected.pop("image_group_size")[0]
    found = json.loads(json.dumps(found))
    if "message_list" in case["example"]:  # of one annotation we keep what metrics need
        found = {key: value for key, value in found.items() if key in expected}
    assert found == expected


def test_data_parity_overrides_that_no_sampler_knows_are_errors():
    source = SourceExample(({},), video=Path("a.mp4"), metadata={"sampler_overrides": {"bogus": 3}})
    with pytest.raises(SamplingError, match="'bogus'"):
        ExampleChain(ModelConfig(), recorded_tokenizer()).load(source)
