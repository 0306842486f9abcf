"""From the order of a mixture to rows with pixels, against a recorded loader of the reference.

Which examples share a row is the reference's choice here, since ours differs by design (see
`test_data_parity_packing`); all else is ours: which draw of an example is meant, its wording,
crops, tokens, weights, and how the row is laid out.
"""

import dataclasses
import json

import numpy as np
import pytest
from goldens_folder import goldens_data_dir
from qwen3_tokenizer import recorded_tokenizer
from segment_visibility import assert_same_visibility

from stts_jax.budget import Budget
from stts_jax.config import ModelConfig, PruneConfig
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import ExampleChain, ExampleSettings, example_rng
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.media import Media
from stts_jax.data.mixture_order import MixtureOrder
from stts_jax.data.packing.rows import pack_row
from stts_jax.data.text.message_weight import MessageWeight
from stts_jax.data.video.reading import Video
from stts_jax.data.video.settings import VideoSettings

LOADER = json.loads((goldens_data_dir() / "dataloader.json").read_text())
ARRAYS = dict(np.load(goldens_data_dir() / "dataloader.npz"))
LOSS_TOLERANCE = 1e-6  # relative; measured: 8e-8
PIXEL_TOLERANCE = 0.008  # mean of a crop, in levels; measured: 7e-5
MODEL = dataclasses.replace(ModelConfig(), prune=PruneConfig(method="none"))
SPECS = {spec["metadata"]["id"]: spec for specs in LOADER["specs"].values() for spec in specs}


def chain() -> ExampleChain:
    config = LOADER["config"]
    images = ImageSettings(
        max_crops=config["max_crops"], high_res_max_crops=config["high_res_max_crops"]
    )
    video = VideoSettings(max_frames=config["max_frames"], max_fps=(2,), frame_tokens="video")
    return ExampleChain(MODEL, recorded_tokenizer(), ExampleSettings(images, video))


def noise(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, size=shape).astype(np.uint8)


def media_of(spec):
    if "image" in spec:
        _, height, width, seed = spec["image"]
        return Media(images=(noise(seed, height, width, 3),))
    if "video" in spec:
        _, count, height, width, seed = spec["video"]
        return Media(video=Video(noise(seed, count, height, width, 3), np.arange(count) * 0.5))
    return Media()


def weight_of(recorded):
    if isinstance(recorded, dict):
        return MessageWeight(**{"constant" if k == "weight" else k: v for k, v in recorded.items()})
    return recorded


def prepared(name, index, epoch, weight):
    spec = dict(SPECS[name])
    media, metadata = media_of(spec), spec.pop("metadata")
    about = {key: value for key, value in spec.items() if key not in ("image", "video")}
    source = SourceExample(tuple(about.pop("message_list", [about])), metadata=metadata)
    return chain().prepare(source, media, "train", example_rng(index, epoch), weight).arrays


def draws(rates, count):
    """(id, number in its dataset, epoch, weight) of the first examples of a mixture."""
    names = rates["order"]
    sizes = [LOADER["sizes"][name] for name in names]
    order = MixtureOrder(sizes, rates["rates"], seed=LOADER["config"]["seed"])
    for draw in (order[position] for position in range(count)):
        spec = LOADER["specs"][names[draw.source]][draw.index]
        weight = weight_of(rates["weights"][draw.source])
        yield spec["metadata"]["id"], draw.index, draw.epoch, weight


def rows_of(tag):
    """(batch, place in it, draws) of each row, by the mixture whose order explains all of them.

    Unpacked rows are the draws in order; a packed one has draws up to the one last read.
    """
    rows = []
    for batch in sorted(
        (b for b in LOADER["batches"] if b["tag"] == tag), key=lambda b: b["batch"]
    ):
        states = batch["extra"].get("data_worker_state")
        for place, members in enumerate(batch["metadata"]):
            members = members if isinstance(members, list) else [members]
            read = states[place]["on_example"] + 1 if states else len(rows) + 1
            rows.append((batch, place, [member["id"] for member in members], read))
    for rates in LOADER["rates"].values():
        order, waiting, found = draws(rates, rows[-1][3]), [], []
        for batch, place, names, read in rows:
            seen = sum(len(row[2]) for row in found) + len(waiting)
            waiting += [next(order) for _ in range(read - seen)]
            found.append((batch, place, [_taken(waiting, name) for name in names]))
        if all(None not in taken for _, _, taken in found):
            return found
    raise AssertionError(f"no recorded mixture has the rows of '{tag}'")


def _taken(waiting, name):
    """The draw of that example that came first, which no longer waits."""
    for place, draw in enumerate(waiting):
        if draw[0] == name:
            return waiting.pop(place)
    return None


ROWS = [
    pytest.param(*row, id=f"{tag}-{number}")
    for tag in sorted({batch["tag"] for batch in LOADER["batches"]})
    for number, row in enumerate(rows_of(tag))
]


@pytest.mark.parametrize(("batch", "place", "members"), ROWS)
def test_data_parity_row_from_order_to_pixels(batch, place, members, report_error):
    examples = [prepared(*draw) for draw in members]
    recorded = {
        name: ARRAYS[f"{batch['tag']}_{batch['batch']}_{name}"][place]
        for name in ("input_ids", "labels", "position_ids", "token_pooling", "loss_masks")
    }
    row = pack_row(examples, budget_for(recorded, batch, len(members)), MODEL)
    tokens = sum(len(example["input_ids"]) for example in examples)
    for name in ("input_ids", "labels", "position_ids"):
        np.testing.assert_array_equal(getattr(row.text, name), recorded[name], err_msg=name)
    check_pooling(row.token_pooling, recorded["token_pooling"])
    check_weights(row.text.loss_masks[:tokens], recorded["loss_masks"][:tokens], report_error)
    segments = ARRAYS.get(f"{batch['tag']}_{batch['batch']}_subsegment_ids")
    if segments is not None:
        assert_same_visibility(row.text.subsegment_ids[:tokens], segments[place][:tokens])
        assert (row.text.subsegment_ids[tokens:] == -1).all()
    check_pixels(row.images, batch["images_sum_per_crop"][place], report_error)


def budget_for(recorded, batch, examples):
    """The sizes of the recorded row, of a model that prunes nothing."""
    tokens, visual = len(recorded["input_ids"]), len(recorded["token_pooling"])
    frames = batch["shapes"]["images"][0][1]
    return Budget(frames, examples, 1 << 30, visual, visual, tokens, tokens)


def check_pooling(found, recorded):
    width = recorded.shape[1]
    np.testing.assert_array_equal(found[:, :width], recorded)
    assert (found[:, width:] == -1).all()


def check_weights(found, recorded, report_error):
    worst = (np.abs(found - recorded) / np.where(recorded == 0, 1, recorded)).max()
    report_error("loss weight", worst, LOSS_TOLERANCE)
    assert worst <= LOSS_TOLERANCE


def check_pixels(images, sums, report_error):
    """Crops that a row lacks are 0 here, and either 0 or 255 in the reference."""
    sums = np.where(np.array(sums) == 255.0 * images[0].size, 0, sums)
    worst = np.abs(images.sum((1, 2), dtype=np.float64) - sums).max() / images[0].size
    report_error("mean of a crop (levels)", worst, PIXEL_TOLERANCE)
    assert worst <= PIXEL_TOLERANCE
