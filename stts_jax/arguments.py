"""Parser and option types of the command lines; their messages stay short."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from stts_jax.buckets.address import is_address, path_of
from stts_jax.buckets.errors import BucketError
from stts_jax.config.limits import LARGEST_SEED
from stts_jax.quoting import shorten, shorten_words

# Times the frames that a model was trained on.
MOST_FRAMES_SCALE = 1024
# Types of a model's weights: that of activations, or int8.
WEIGHTS = ("compute", "int8")


class Parser(argparse.ArgumentParser):
    """`ArgumentParser` that quotes at most a few hundred letters of a wrong value."""

    def error(self, message: str) -> NoReturn:
        """Prints usage and message; exits with 2."""
        super().error(shorten_words(message))


def seed(text: str) -> int:
    """Parses a seed."""
    try:
        found = int(text)
    except ValueError:
        found = -1
    if not 0 <= found <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a seed; write a whole number from 0 to 2^63 - 1"
        )
    return found


def local_path(text: str) -> Path:
    """Parses the path of a folder; `Path` would make a folder `gs:` of an address."""
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is an address, and only folders are read and written here; name a folder"
        )
    return Path(text)


def path_or_address(text: str) -> Path:
    """Parses the path of a folder or file, or its address in a bucket."""
    try:
        return path_of(text)
    except BucketError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def at_least_one(text: str) -> int:
    """Parses a count of at least 1."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a count; write a whole number from 1"
        )
    return count


def percentage(text: str) -> float:
    """Parses a percentage: 0, or from 1 on, so that `0.5` is not taken for a half."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is less than one per cent; write {100 * value:g} for {100 * value:g} %"
        )
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a percentage to drop; write 0, or from 1 to below 100"
        )
    return value


def weights_type(text: str) -> str:
    """Parses the type of a model's weights."""
    if text not in WEIGHTS:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is no type of weights; write int8, or compute for the type that "
            "model.compute_dtype names"
        )
    return text


def frames_scale(text: str) -> float:
    """Parses a factor of frames: `2x` or `2` -> 2.0."""
    try:
        scale = float(text.removesuffix("x"))
    except ValueError:
        scale = 0.0
    if not 0 < scale <= MOST_FRAMES_SCALE:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a factor from 0 to {MOST_FRAMES_SCALE}; write 2x, for example"
        )
    return scale
