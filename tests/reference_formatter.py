"""Settings of the formatter from configs of the reference, as the recorded cases have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stts_jax.data.formatting.fields import FormatterError
from stts_jax.data.formatting.settings import FormatterSettings

# Where a config of the reference leaves something out, it means this rather than our default.
REFERENCE_DEFAULTS: dict[str, Any] = {
    "prompt_templates": "none",
    "message_format": "none",
    "system_prompt": "none",
    "pointing_format": "default",
    "p_multi_point_all_image": 0.0,
}
_REFERENCE_SPELLING = {
    "use_seperate_count_without_pointing_style": "use_separate_count_without_pointing_style",
}
# Read by nothing that we have: decimals of the old point format, and a field nothing reads there.
_REFERENCE_ONLY = ("points_decimal_places", "use_seperate_non_pointing_qa_style")


def from_reference(config: Mapping[str, Any]) -> FormatterSettings:
    """Settings from a `data_formatter` config of the reference, with the defaults it has there.

    Errors: a key that neither the reference nor we know is a FormatterError.
    """
    values = dict(REFERENCE_DEFAULTS)
    known = {setting.name for setting in fields(FormatterSettings)}
    for key, value in config.items():
        name = _REFERENCE_SPELLING.get(key, key)
        if name in _REFERENCE_ONLY:
            continue
        if name not in known:
            raise FormatterError(f"'{key}' is not a setting of the formatter; remove it")
        values[name] = _from_reference_value(name, value)
    return FormatterSettings(**values)


def _from_reference_value(name: str, value: Any) -> Any:
    """The reference also writes null for "none" and for an empty mapping, and "" for no length."""
    if value is None and name in ("message_format", "system_prompt"):
        return "none"
    if value is None and name == "eval_system_prompt_mapping":
        return {}
    if value == "" and name == "default_inference_len":
        return None
    return value
