"""Messages against those that the reference wrote, draws from the generator included."""

import json
import re
from collections import defaultdict

import numpy as np
import pytest
from goldens_folder import goldens_data_dir
from reference_formatter import settings_of

from stts_jax.data.text.formatting import Formatter, FormatterError, FormatterSettings
from stts_jax.data.text.formatting.chat import wrap_messages
from stts_jax.data.text.formatting.multiple_choice import varied_form
from stts_jax.data.text.formatting.points import image_points, video_points
from stts_jax.data.text.formatting.styles import (
    DEMO_STYLES,
    IMAGE_MULTIPLE_CHOICE_STYLES,
    VIDEO_MULTIPLE_CHOICE_STYLES,
    style_tag,
)
from stts_jax.data.text.formatting.templates import TEMPLATES
from stts_jax.data.text.formatting.timestamps import (
    answer_time,
    clock_time,
    parse_timestamp,
    prompt_times,
)

UNIT_SCALE = (1.0, 1.0)


def recorded(kind):
    """What the files `kind*.json` hold, with the name of each file."""
    files = sorted(goldens_data_dir().glob(f"{kind}*.json"))
    if not files:
        raise FileNotFoundError(f"{goldens_data_dir()} holds no {kind}*.json")
    return [(file.stem, json.loads(file.read_text())) for file in files]


def grouped(rows, key):
    """Rows by the text that `key` makes of them, as parameters with that id."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return [pytest.param(group, id=name) for name, group in groups.items()]


def formatter_cases():
    rows = []
    for file, content in recorded("data_formatter"):
        for case in content["cases"]:
            config, example = content["configs"][case["cfg"]], content["examples"][case["ex"]]
            rows.append((file, config, example, case))
    return grouped(rows, lambda row: f"{row[0]}-{row[3]['cfg']}-{row[3]['ex']}")


def pieces(name):
    """Rows of one part of the formatter's pieces, from all files."""
    return [row for _, content in recorded("formatter_pieces") for row in content[name]]


def facts(name):
    return [row for _, content in recorded("misc_facts") for row in content[name]]


def is_error(value):
    return isinstance(value, dict) and "error" in value


def check(make, expected):
    """`make()` gives what is recorded, or raises where the reference does."""
    if is_error(expected):
        with pytest.raises(ValueError):
            make()
    else:
        assert make() == expected


@pytest.mark.parametrize("cases", formatter_cases())
def test_data_parity_messages_metadata_and_next_draw(cases):
    for _, config, example, case in cases:
        formatter = Formatter(settings_of(config))
        rng = np.random.RandomState(case["seed"])
        if is_error(case):
            with pytest.raises(FormatterError):
                formatter.format(example, mode=case["mode"], rng=rng)
            continue
        formatted = formatter.format(example, mode=case["mode"], rng=rng)
        assert formatted.messages == case["messages"]
        assert formatted.metadata == (case["metadata"] or {})
        assert rng.random() == case["next"]


def longest_common_text(texts):
    """The longest text that all of `texts` hold: what the recorded prompts ask is not listed."""
    shortest = min(texts, key=len)
    for length in range(len(shortest), 0, -1):
        for start in range(len(shortest) - length + 1):
            candidate = shortest[start : start + length]
            if all(candidate in text for text in texts):
                return candidate
    raise ValueError("the recorded prompts have no text in common")


def choice_cases():
    rows = [
        (longest_common_text([row[3] for row in content["template_mc_question"]]), *row)
        for _, content in recorded("formatter_pieces")
        for row in content["template_mc_question"]
    ]
    return grouped(rows, lambda row: f"{len(row[2])}_options-p{row[3]}")


@pytest.mark.parametrize("rows", choice_cases())
def test_data_parity_varied_multiple_choice(rows):
    for question, seed, options, p_labelled, prompt, names, outputs, following in rows:
        rng = np.random.RandomState(seed)
        choice = varied_form(question, options, rng, p_labelled=p_labelled)
        assert choice.prompt == prompt
        assert list(choice.names) == names
        assert list(choice.outputs) == outputs
        assert rng.random() == following


def style_tag_cases():
    rows = []
    for _, content in recorded("formatter_pieces"):
        note = content["system_prompt_note"].partition("messages passed: ")[2]
        written = re.findall(r"'([^']*)'(?:\*(\d+))?", note)
        messages = [text * int(times or 1) for text, times in written]
        rows += [(messages, *row) for row in content["system_prompt"]]
    return grouped(rows, lambda row: f"{row[1]}-{row[2]}")


@pytest.mark.parametrize("rows", style_tag_cases())
def test_data_parity_style_tag(rows):
    modes = {(True, False): "train", (False, False): "eval", (False, True): "inference"}
    for messages, rule, style, training, inference, seed, separate, expected, following in rows:
        config = {"system_prompt": rule, "use_seperate_count_without_pointing_style": separate}
        rng = np.random.RandomState(seed)

        def tag(config=config, style=style, messages=messages, rng=rng, key=(training, inference)):
            settings = settings_of(config)
            return style_tag(style, messages, settings, modes[key], rng)

        check(tag, expected)
        if not is_error(expected):
            assert rng.random() == following


def test_data_parity_style_groups():
    for _, content in recorded("formatter_pieces"):
        groups = content["style_lists"]
        assert set(DEMO_STYLES) == set(groups["demo"])
        assert set(VIDEO_MULTIPLE_CHOICE_STYLES) == set(groups["video_mc"])
        assert set(IMAGE_MULTIPLE_CHOICE_STYLES) == set(groups["image_mc"])


@pytest.mark.parametrize(
    ("style", "count"),
    [
        (k, n)
        for _, content in recorded("formatter_pieces")
        for k, n in content["n_templates"].items()
    ],
)
def test_data_parity_number_of_wordings(style, count):
    assert len(TEMPLATES[style]) == count


@pytest.mark.parametrize(
    "rows", grouped(pieces("seconds_to_timestamp"), lambda row: f"{row[1]}_decimals")
)
def test_data_parity_clock_time(rows):
    for seconds, decimals, expected in rows:
        assert clock_time(seconds, decimals) == expected


@pytest.mark.parametrize(
    "rows", grouped(pieces("input_timestamps"), lambda row: f"{row[0]}-{row[1]}_decimals")
)
def test_data_parity_prompt_times(rows):
    for mode, decimals, times, seed, expected in rows:

        def texts(mode=mode, decimals=decimals, times=times, seed=seed):
            settings = FormatterSettings(timestamp_mode=mode, seconds_decimal_places=decimals)
            return list(prompt_times(times, settings, np.random.RandomState(seed)))

        check(texts, expected)


@pytest.mark.parametrize(
    "rows", grouped(pieces("output_timestamps"), lambda row: f"{row[0]}-{row[1]}_decimals")
)
def test_data_parity_answer_time(rows):
    for mode, decimals, time, expected in rows:

        def text(mode=mode, decimals=decimals, time=time):
            settings = FormatterSettings(
                output_timestamp_mode=mode, seconds_decimal_places=decimals
            )
            return answer_time(time, settings)

        check(text, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [row for _, content in recorded("metrics") for row in content["aggregates"]["parse_timestamp"]],
)
def test_data_parity_parse_timestamp(value, expected):
    check(lambda: parse_timestamp(value), expected)


@pytest.mark.parametrize(
    "rows", grouped(pieces("format_messages"), lambda row: f"{row[0]}-space_{row[1]}")
)
def test_data_parity_chat_form(rows):
    for form, space, messages, expected in rows:

        def wrapped(form=form, space=space, messages=messages):
            config = {"message_format": form, "always_start_with_space": space}
            return wrap_messages(messages, settings_of(config))

        check(wrapped, expected)


@pytest.mark.parametrize(
    ("points", "label", "mode", "first", "second"), facts("html_v1_and_v2_image_points")
)
def test_data_parity_image_points(points, label, mode, first, second):
    for pointing_format, expected in (("html-v1", first), ("html-v2", second)):
        settings = FormatterSettings(pointing_format=pointing_format)
        assert image_points(points, UNIT_SCALE, label, mode, settings) == expected


def video_point_cases():
    """Label and mode are not listed: they are read from the recorded text."""
    cases = []
    openings = {"Counting the": "point_count", "There are": "count_point", "<points": "point"}
    for times, points, first, second in facts("html_video_points"):
        mode = next(mode for opening, mode in openings.items() if first.startswith(opening))
        label = re.search(r">([^<]*)</points>", first).group(1)
        cases.append((times, points, label, mode, first, second))
    return cases


@pytest.mark.parametrize(
    ("times", "points", "label", "mode", "first", "second"), video_point_cases()
)
def test_data_parity_video_points(times, points, label, mode, first, second):
    for pointing_format, expected in (("html-v1", first), ("html-v2", second)):
        settings = FormatterSettings(pointing_format=pointing_format)
        assert video_points(times, points, UNIT_SCALE, label, mode, settings) == expected
