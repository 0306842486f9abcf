"""Turns annotations into messages. Start with `Formatter`; `turns` has the prompt rules."""

from stts_jax.data.text.formatting.fields import FormatterError, Mode
from stts_jax.data.text.formatting.formatter import Formatted, Formatter
from stts_jax.data.text.formatting.settings import FormatterSettings

__all__ = ["Formatted", "Formatter", "FormatterError", "FormatterSettings", "Mode"]
