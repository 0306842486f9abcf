"""Command lines whose messages stay short."""

from __future__ import annotations

import argparse
from typing import NoReturn

from stts_jax.config.limits import LARGEST_SEED
from stts_jax.quoting import shorten, shorten_words


class Parser(argparse.ArgumentParser):
    """`ArgumentParser` that quotes at most a few hundred letters of what it refuses."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message; exit with 2."""
        super().error(shorten_words(message))


def seed(text: str) -> int:
    """The type of an option that takes a seed."""
    try:
        found = int(text)
    except ValueError:
        found = -1
    if not 0 <= found <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a seed; write a whole number from 0 to 2^63 - 1"
        )
    return found
