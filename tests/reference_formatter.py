"""Formatter settings of the reference's configs, for the recorded cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stts_jax.data.text.formatting import FormatterSettings

# Where a config of the reference leaves something out, it means this rather than our default.
DEFAULTS: dict[str, Any] = {
    "prompt_templates": "none",
    "message_format": "none",
    "system_prompt": "none",
    "pointing_format": "default",
    "p_multi_point_all_image": 0.0,
}
SPELLING = {
    "use_seperate_count_without_pointing_style": "use_separate_count_without_pointing_style",
}
# Read by nothing that we have: decimals of the old point format, and a field nothing reads there.
REFERENCE_ONLY = ("points_decimal_places", "use_seperate_non_pointing_qa_style")


def settings_of(config: Mapping[str, Any]) -> FormatterSettings:
    """Returns our settings of a `data_formatter` config; an unknown key is an error."""
    values = dict(DEFAULTS)
    known = {setting.name for setting in fields(FormatterSettings)}
    for key, value in config.items():
        name = SPELLING.get(key, key)
        if name in REFERENCE_ONLY:
            continue
        assert name in known, key
        values[name] = _our_value(name, value)
    return FormatterSettings(**values)


def _our_value(name: str, value: Any) -> Any:
    """The reference also writes null for "none" and for an empty mapping, and "" for no length."""
    if value is None and name in ("message_format", "system_prompt"):
        return "none"
    if value is None and name == "eval_system_prompt_mapping":
        return {}
    if value == "" and name == "default_inference_len":
        return None
    return value
