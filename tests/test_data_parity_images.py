"""Images against recorded outputs of the reference: pixels, tilings, tokens and pooling."""

import dataclasses
import functools
import hashlib
import json
import math
import re

import numpy as np
import pytest
from goldens_folder import goldens_data_dir
from largest_sizes import largest_sizes
from qwen3_tokenizer import recorded_tokenizer

from stts_jax.data.images.image import pooling_windows, resize, resize_and_pad, to_patches
from stts_jax.data.images.tiling import all_tilings, select_tiling
from stts_jax.data.images.tokens import (
    ImageSettings,
    tokenize_image,
    tokenize_images,
)

FOLDER = goldens_data_dir()
SINGLE = json.loads((FOLDER / "image_single_crop.json").read_text())
MULTI = json.loads((FOLDER / "image_multicrop.json").read_text())
EXTRA = MULTI["extra"]
# What `*_imgslice` keeps, by the README of the recorded cases.
SLICE_PATCHES = [0, 13, 364, 728]
SLICE_VALUES = [0, 1, 2, 41, 42, 300, 587]
# Rounding of .5 goes either way: by the README, 0.8 % of the values may be one level off.
# Measured: 0.07 % of the patches kept, 0.01 % of a whole crop.
ROUNDED_SHARE = 0.008
# What float values may differ by otherwise. Measured: 5e-10 where squashed, 4.8e-7 where
# antialiased.
SQUASHED, ANTIALIASED = 1e-6, 1e-5

BY_TAG = {
    "siglip_uint8": ImageSettings(crop_mode="resize"),
    "siglip_f32": ImageSettings(crop_mode="resize", normalize_in_model=False),
    "default_f32_mask": ImageSettings(
        crop_mode="resize", resize="default", normalize_in_model=False, padding_mask=True
    ),
}
FIELDS = {
    "gpu": "normalize_in_model",
    "mask": "padding_mask",
    "overlap_margins": "margins",
    "use_col_tokens": "column_tokens",
    "use_low_res_token_global_crops": "low_res_tokens",
    "use_single_crop_col_tokens": "global_column_tokens",
    "use_single_crop_start_token": "global_start_token",
}


@functools.cache
def arrays(name):
    with np.load(FOLDER / name) as content:
        return dict(content)


def recorded_settings(name):
    values = {
        FIELDS.get(key, key): value
        for part in MULTI["configs"][name]
        for key, value in part.items()
    }
    if "pooling" in values:
        values["pooling"] = (values["pooling"],) * 2
    return ImageSettings(**values)


def made(recipe, stored=None):
    height, width = recipe["h"], recipe["w"]
    if recipe["kind"] == "noise":
        values = np.random.RandomState(recipe["seed"]).randint(0, 256, size=(height, width, 3))
    elif recipe["kind"] == "linear":
        a, b, d = recipe["abc"]
        y, x, c = np.ogrid[:height, :width, :3]
        values = (a * y + b * x + d * c + (y * x) // recipe["div"]) % 256
    else:
        values = stored
    return values.astype(np.uint8)


def long_form(runs):
    ids, counts = zip(*runs, strict=True)
    return np.repeat(ids, counts)


def sha256(array, dtype):
    return hashlib.sha256(np.ascontiguousarray(array, dtype).tobytes()).hexdigest()


def level_of(pixels):
    """Between two values of uint8, also where they were mapped to [-1, 1]."""
    return 1 if pixels.dtype == np.uint8 else 2 / 255


def assert_squashed_alike(actual, expected, report):
    """Values are the same levels but for the rounding of .5."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    error = np.abs(actual.astype(np.float64) - expected)
    levels = np.rint(error / level_of(actual))
    beyond = np.abs(error - levels * level_of(actual)).max()
    allowed = math.ceil(ROUNDED_SHARE * error.size)
    report("squashed: values, levels apart", levels.max(), 1)
    report("squashed: values, number so, of those allowed", np.count_nonzero(levels) / allowed, 1)
    report("squashed: values, beside whole levels", beyond, SQUASHED)
    assert levels.max() <= 1
    assert np.count_nonzero(levels) <= allowed
    assert beyond <= SQUASHED


def assert_antialiased_alike(actual, expected, report):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    error = np.abs(actual.astype(np.float64) - expected).max()
    report("antialiased: values", error, ANTIALIASED)
    assert error <= ANTIALIASED


def assert_alike(actual, expected, settings, report):
    compare = assert_squashed_alike if settings.resize == "siglip" else assert_antialiased_alike
    compare(actual, expected, report)


def assert_sums_alike(actual, expected, settings, report):
    """Sum over all values: as if each erred by its tolerance, in one direction."""
    squashed = settings.resize == "siglip"
    tolerance = ROUNDED_SHARE * level_of(actual) if squashed else ANTIALIASED
    error = abs(actual.sum(dtype=np.float64) - expected) / actual.size
    report(f"{'squashed' if squashed else 'antialiased'}: mean of values", error, tolerance)
    assert error <= tolerance


# ---------------------------------------------------------------------- one crop


def kept(what):
    """Numbers that the file's note gives for `what`."""
    return [int(n) for n in re.search(rf"{what}[^:]*: ([\d,]+)", SINGLE["note"])[1].split(",")]


def outputs(*tags):
    return [
        pytest.param(n, tag, id=f"{n}_{tag}")
        for n, case in enumerate(SINGLE["cases"])
        for tag in case["outputs"]
        if not tags or tag in tags
    ]


@functools.cache
def single_image(n):
    recipe = SINGLE["cases"][n]["recipe"]
    return made(recipe, arrays("image_single_crop.npz").get(f"in{n}"))


@pytest.mark.parametrize("n", range(len(SINGLE["cases"])))
def test_data_parity_recipes_give_the_recorded_images(n):
    recorded = SINGLE["cases"][n]["input"]
    assert list(single_image(n).shape) == recorded["shape"]
    assert sha256(single_image(n), np.uint8) == recorded["sha256"]


@pytest.mark.parametrize(("n", "tag"), outputs("siglip_uint8"))
def test_data_parity_squashing(n, tag, report_error):
    recorded, stored = SINGLE["cases"][n]["outputs"][tag], arrays("image_single_crop.npz")
    crop = resize(single_image(n), tuple(recorded["crop"]["shape"][1:3]))
    lines = kept("rows/cols")
    assert_squashed_alike(crop[lines], stored[f"s{n}_{tag}_rows"], report_error)
    assert_squashed_alike(crop[:, lines], stored[f"s{n}_{tag}_cols"], report_error)
    whole = stored.get(f"s{n}_{tag}_full", crop)
    assert_squashed_alike(crop, whole, report_error)


@pytest.mark.parametrize(("n", "tag"), outputs())
def test_data_parity_single_crop_patches(n, tag, report_error):
    recorded, settings = SINGLE["cases"][n]["outputs"][tag], BY_TAG[tag]
    patches = tokenize_image(single_image(n), settings, recorded_tokenizer()).patches
    assert list(patches.shape) == recorded["patches"]["shape"]
    stored = arrays("image_single_crop.npz")[f"s{n}_{tag}_patches_slice"]
    assert_alike(patches[0, kept("patch rows")], stored, settings, report_error)
    assert_sums_alike(patches, recorded["patches"]["sum"], settings, report_error)


@pytest.mark.parametrize(("n", "tag"), outputs("default_f32_mask"))
def test_data_parity_padding_masks(n, tag):
    recorded = SINGLE["cases"][n]["outputs"][tag]
    _, mask = resize_and_pad(single_image(n), tuple(recorded["mask"]["shape"][1:]))
    assert sha256(mask, bool) == recorded["mask"]["sha256"]
    shares = tokenize_image(single_image(n), BY_TAG[tag], recorded_tokenizer()).patch_mask
    stored = arrays("image_single_crop.npz")[f"s{n}_{tag}_maskpatches"]
    np.testing.assert_allclose(shares, stored, atol=1e-6)  # measured: 0


# ------------------------------------------------------------------ patches, pooling, tilings

PATCHES = arrays("patch_order_and_pooling.npz")
TILINGS = arrays("tiling.npz")


@pytest.mark.parametrize("name", [x.removeprefix("in_") for x in PATCHES if x.startswith("in_")])
def test_data_parity_patch_order(name):
    pixels, expected = PATCHES[f"in_{name}"], PATCHES[f"out_{name}"]
    pixels = pixels.reshape(*pixels.shape[:3], -1)  # a mask has no channels
    patch_size = math.isqrt(expected.shape[-1] // pixels.shape[-1])
    np.testing.assert_array_equal(to_patches(pixels, patch_size), expected)


@pytest.mark.parametrize("name", [x for x in PATCHES if x.startswith("pool_")])
def test_data_parity_pooling_windows(name):
    height, width, rows, columns = map(int, re.findall(r"\d+", name))
    grid = np.arange(height * width).reshape(height, width)
    np.testing.assert_array_equal(pooling_windows(grid, (rows, columns)), PATCHES[name])


def test_data_parity_select_tiling():
    rows = TILINGS["raw_select"].tolist()
    assert [select_tiling(*row[:4]) for row in rows] == [tuple(row[4:]) for row in rows]


@pytest.mark.parametrize("name", [x for x in TILINGS if x.startswith("with_margins_")])
def test_data_parity_tiling_with_margins(name):
    layout = dataclasses.replace(ImageSettings().layout, image_size=int(name.split("_")[-1]))
    rows = TILINGS[name].tolist()
    assert [layout.tiling(*row[:3]) for row in rows] == [tuple(row[3:]) for row in rows]


# ------------------------------------------------------------------------ crops and tokens


@pytest.fixture(scope="module", params=MULTI["cases"], ids=lambda case: case["key"])
def case(request):
    """(recorded case, its settings, what is made of its image)."""
    recorded = request.param
    settings = recorded_settings(recorded["config"])
    image = made(recorded["recipe"])
    return recorded, settings, tokenize_image(image, settings, recorded_tokenizer())


def stored_of(recorded, name):
    return arrays("image_multicrop.npz").get(f"{recorded['key']}_{name}")


def test_data_parity_image_tokens(case):
    recorded, _, actual = case
    np.testing.assert_array_equal(actual.tokens, long_form(recorded["tokens_rle"]))


def test_data_parity_image_pooling(case):
    recorded, _, actual = case
    np.testing.assert_array_equal(actual.token_pooling, stored_of(recorded, "pool"))


def test_data_parity_image_bounds(case):
    recorded, _, actual = case
    lengths = [len(actual.token_pooling), len(actual.patches)]
    for name, length in zip(("token_pooling", "image"), lengths, strict=True):
        assert recorded[f"cum_{name}_bounds"] in ([length], None)  # not kept for single crops


def test_data_parity_image_patch_grid(case):
    recorded, _, actual = case
    expected = stored_of(recorded, "map")
    assert (actual.patch_grid is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(actual.patch_grid, expected)


def test_data_parity_image_masks(case):
    recorded, settings, actual = case
    expected = stored_of(recorded, "mask")
    assert (expected is not None) == settings.padding_mask == (actual.patch_mask is not None)
    if expected is not None:
        np.testing.assert_allclose(actual.patch_mask, expected, atol=1e-6)  # measured: 0


def test_data_parity_image_pixels(case, report_error):
    recorded, settings, actual = case
    assert list(actual.patches.shape) == recorded["images"]["shape"]
    kept_values = actual.patches[:, SLICE_PATCHES][:, :, SLICE_VALUES]
    assert_alike(kept_values, stored_of(recorded, "imgslice"), settings, report_error)
    for crop, expected in zip(actual.patches, recorded["per_crop_sum"], strict=True):
        assert_sums_alike(crop, expected, settings, report_error)


# ------------------------------------------------------------------ further recorded outputs


def extras(start):
    return [name for name in EXTRA if name.startswith(start)]


def image_with_tokens(count, settings):
    """A black image that becomes `count` tokens, where a case doesn't tell its image."""
    margin, window = (
        x * settings.patch_size for x in (sum(settings.margins), settings.layout.window)
    )
    for rows, columns in all_tilings(settings.max_crops):
        image = np.zeros((rows * window + margin, columns * window + margin, 3), np.uint8)
        if len(tokenize_image(image, settings, recorded_tokenizer()).tokens) == count:
            return image
    raise AssertionError(f"no tiling of at most {settings.max_crops} crops has {count} tokens")


@pytest.mark.parametrize("name", extras("overlap-and-resize (no global crop)"))
def test_data_parity_without_global_crop(name):
    recorded = EXTRA[name]
    tokens = long_form(recorded["tokens_rle"])
    settings = ImageSettings(crop_mode="overlap-and-resize")
    actual = tokenize_image(
        image_with_tokens(len(tokens), settings), settings, recorded_tokenizer()
    )
    np.testing.assert_array_equal(actual.tokens, tokens)
    expected = arrays("image_multicrop.npz")["noglobal_pool"]
    np.testing.assert_array_equal(actual.token_pooling, expected)
    assert list(actual.patches.shape) == recorded["images"]["shape"]


HIGH_RES = re.compile(r"p_high_res_([\d.]+)_(\d+)x(\d+)")


@pytest.mark.parametrize("name", extras("p_high_res_"), ids=lambda x: x.split()[0])
def test_data_parity_high_resolution_draw(name):
    share, height, width = HIGH_RES.match(name).groups()
    settings = ImageSettings(p_high_res=float(share))
    image = np.zeros((int(height), int(width), 3), np.uint8)
    rows = []
    for seed, *_ in EXTRA[name]:
        rng = np.random.RandomState(seed)
        actual = tokenize_image(image, settings, recorded_tokenizer(), rng)
        rows.append([seed, len(actual.patches), rng.random()])
    assert rows == EXTRA[name]


GROUPS = [name for name in extras("multi_image_") if "given" not in name]
TOO_LARGE_GROUPS = [name for name in extras("multi_image_") if "given" in name]


@pytest.mark.parametrize("name", GROUPS)
def test_data_parity_image_group(name, report_error):
    recorded, settings = EXTRA[name], ImageSettings()
    images = [made(x["recipe"]) for x in recorded]
    actual = tokenize_images(images, settings, recorded_tokenizer())
    for ours, theirs in zip(actual, recorded, strict=True):
        np.testing.assert_array_equal(ours.tokens, long_form(theirs["tokens_rle"]))
        assert sha256(ours.token_pooling, theirs["pool"]["dtype"]) == theirs["pool"]["sha256"]
        assert list(ours.patches.shape) == theirs["images"]["shape"]
        assert_sums_alike(ours.patches, theirs["images"]["sum"], settings, report_error)


@pytest.mark.parametrize("name", TOO_LARGE_GROUPS)
def test_data_parity_too_large_image_group(name):
    """The recorded tokens are cut off, and the images aren't told."""
    given, most = map(int, re.findall(r"\d+", name))
    recorded, settings, tokenizer = (
        EXTRA[name],
        ImageSettings(max_images=most),
        recorded_tokenizer(),
    )
    images = [
        image_with_tokens(case["n"] - len(tokenizer.encode(f"Image {number}")), settings)
        for number, case in enumerate(recorded, 1)
    ]
    images += [images[0]] * (given - len(images))
    actual = tokenize_images(images, settings, tokenizer, too_many="drop")
    assert [len(x.tokens) for x in actual] == [x["n"] for x in recorded]
    for ours, theirs in zip(actual, recorded, strict=True):
        beginning = long_form(theirs["tokens_rle"])
        np.testing.assert_array_equal(ours.tokens[: len(beginning)], beginning)


@pytest.mark.parametrize("name", extras("output_shapes_"))
def test_data_parity_largest_sizes(name):
    recorded = EXTRA[name]
    settings = recorded_settings(name.removeprefix("output_shapes_"))
    actual = largest_sizes(settings, recorded_tokenizer())
    sizes = {"tokens": actual.tokens, "images": actual.crops, "token_pooling": actual.pooled}
    assert sizes == {name: shape[0] for name, (shape, _) in recorded.items()}
