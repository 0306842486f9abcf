"""Checks arguments and results of functions against their annotations, shapes among them."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is a float, as type checkers have it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
