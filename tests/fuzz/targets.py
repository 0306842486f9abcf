"""All targets: a module registers its own when it is imported."""

import fuzz.checkpoints
import fuzz.media
import fuzz.own_data
import fuzz.settings
import fuzz.tokenizers  # noqa: F401
from fuzz.registry import TARGETS

__all__ = ["TARGETS"]
