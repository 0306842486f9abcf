"""Reads `config.yaml` of checkpoints: no tags, no aliases, and not too much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from stts_jax.plain_files import FileError, parsed, read_text

# The reference's own have 5 KB; the parser takes a second for 200 KB.
MOST_YAML_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """Refuses aliases, of which a few lines make a value that no memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(
                None, None, "aliases (*name) are not read", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Value of a YAML file.

    Raises:
      FileError: if it is no file, too large, not YAML, or uses tags or aliases.
    """
    text = read_text(path, MOST_YAML_BYTES)

    def parse() -> Any:
        try:
            return yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ValueError(problem) from error

    try:
        return parsed(parse, path, "YAML")
    except (TypeError, AttributeError, OverflowError) as error:  # of values like dates
        raise FileError(f"'{path}' is not valid YAML ({type(error).__name__})") from error
