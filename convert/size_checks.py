"""Sizes that a configuration states, compared with the files before anything is made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from convert.names import HF, NATIVE, TRANSFORMERS, name_table
from convert.tensor_reader import Rows
from stts_jax.config import ConfigError, ModelConfig

# A configuration that states more layers than are there, by so many, isn't that of the files.
MOST_LACKING_LAYERS = 100
# Values of a table of positions that is made without a look at the files.
_MOST_POSITIONS = 1 << 23
_LAYERS = {
    NATIVE: (r"transformer\.blocks\.(\d+)\.", r"resblocks\.(\d+)\."),
    HF: (r"transformer\.blocks\.(\d+)\.", r"resblocks\.(\d+)\."),
    TRANSFORMERS: (r"language_model\.layers\.(\d+)\.", r"vision_tower\.layers\.(\d+)\."),
}


def require_layers(stated: tuple[int, int], tensors: Mapping[str, Rows], column: str) -> None:
    """Refuses a number of layers far from the one that the files hold, before names are made."""
    for count, pattern, what in zip(
        stated, _LAYERS[column], ("language model", "vision transformer"), strict=True
    ):
        found = {match[1] for name in tensors if (match := re.search(pattern, name))}
        # A folder may lack layers, which are listed, and blocks that no feature layer needs.
        if count > len(found) + MOST_LACKING_LAYERS:
            raise ConfigError(
                f"it says that the {what} has {count} layers, but the files hold {len(found)}; "
                "take the configuration that belongs to these weights"
            )


def require_positions(config: ModelConfig, tensors: Mapping[str, Rows], column: str) -> None:
    """Refuses a huge table of positions that isn't that of the files, before it is made."""
    wanted = (config.vit.positions, config.vit.width)
    (table,) = (name for name in name_table(config) if name.ours == "vit.position_embedding")
    stored = tensors.get(table.in_column(column)[0])
    found = None if stored is None else tuple(stored.shape)
    if found != wanted and wanted[0] * wanted[1] > _MOST_POSITIONS:
        raise ConfigError(
            f"it says that the vision transformer's table of positions has the shape {wanted}, but "
            f"the files hold {found}; take the configuration that belongs to these weights"
        )
