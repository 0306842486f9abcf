"""docs/settings.md: all settings, with meanings, as the dataclasses and configs/ say today."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
from goldens_folder import REPOSITORY

from stts_jax.config import Config, config_names, load_config, override
from stts_jax.config.reference import Section, Setting, meanings, reference, sections, sections_of

ALL = [setting for section in sections() for setting in section.settings]


def named(name: str) -> Setting:
    return next(setting for setting in ALL if setting.name == name)


def test_the_page_is_current():
    written = (REPOSITORY / "docs" / "settings.md").read_text()
    assert written == reference(), "run `make settings`"


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_a_setting_has_a_meaning(setting):
    assert setting.meaning, f"say in the docstring's Attributes what {setting.name} is"


def test_every_setting_is_listed():
    def leaves(values: dict, path: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key}
        return found

    with_yarn = dataclasses.asdict(load_config("molmo2_o_7b"))
    assert {setting.name for setting in ALL} == leaves(with_yarn)


def test_defaults_are_written_as_a_command_takes_them():
    plain = [s for s in ALL if ".yarn." not in s.name]
    assert override(Config(), [f"{s.name}={s.default}" for s in plain]) == Config()


def test_a_setup_is_listed_where_it_differs_from_its_base():
    assert named("model.prune.topk").setups["molmo2_4b_stts_30"] == "0.3"
    # The file states the default, and the file that is based on it states nothing.
    assert "molmo2_4b" not in named("data.max_frames").setups
    assert set(named("data.workers").setups) == {"molmo2_4b"} < set(config_names())


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
      low, high: bounds of it, which
        go on.
      size: how much.

    Not of the attributes: this.
    """

    low: int = 1
    high: int | None = None
    size: float = field(default=0.5, metadata={"minimum": 0, "maximum": 1})
    unsaid: str = ""


def test_meanings_are_those_of_the_docstring():
    bounds = "bounds of it, which go on."
    assert meanings(Part) == {"low": bounds, "high": bounds, "size": "how much."}


def test_bounds_show_where_a_field_declares_them():
    (section,) = sections_of(Part(), "part")
    assert isinstance(section, Section)
    assert {s.name: s.type for s in section.settings} == {
        "part.low": "whole number",
        "part.high": "whole number or `none`",
        "part.size": "number, 0 to 1",
        "part.unsaid": "text",
    }
