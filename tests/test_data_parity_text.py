"""Tokenizer and message arrays against recorded cases of the reference."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from goldens_folder import goldens_data_dir
from qwen3_tokenizer import (
    VOCAB_SIZE,
    carried_cases,
    recorded_tokenizer,
    recorded_tokenizer_path,
    reduced_tokenizer_path,
)
from segment_visibility import assert_same_visibility
from whole_text import decode_all

from stts_jax.config import SPECIAL_TOKENS
from stts_jax.data.text.message_arrays import MessageArrays, TextSettings
from stts_jax.data.text.message_weight import LOSS_WEIGHTS, MessageWeight
from stts_jax.data.text.tokenizer import POINT_TOKENS, Tokenizer
from stts_jax.data.text.weighted_tokens import VisionBlock, positions_within_segments

TOKENIZER_CASES = json.loads((goldens_data_dir() / "tokenizer.json").read_text())
TEXT_CASES = json.loads((goldens_data_dir() / "text_preprocessor.json").read_text())
INFO = TOKENIZER_CASES["info"]
# Ours by the reference's name.
ARRAYS = {
    "input_tokens": "input_ids",
    "target_tokens": "labels",
    "position_ids": "position_ids",
    "subsegment_ids": "subsegment_ids",
}
LOSS_TOLERANCE = 1e-6  # relative; measured: 1.1e-7


def by_text(case: dict[str, Any]) -> str:
    return repr(case["text"])[:30]


# ------------------------------------------------------------------------------------ tokenizer


@pytest.fixture(scope="module")
def unpadded() -> Tokenizer:
    return Tokenizer.load(str(recorded_tokenizer_path()), INFO["base_vocab_size"])


@pytest.fixture(scope="module")
def carried() -> Tokenizer:
    return Tokenizer.load(str(reduced_tokenizer_path()), VOCAB_SIZE)


def test_data_parity_special_ids(unpadded):
    for tokenizer, recorded in (
        (recorded_tokenizer(), INFO["special_ids_padded"]),
        (unpadded, INFO["special_ids_unpadded"]),
    ):
        assert list(recorded) == [*SPECIAL_TOKENS, *POINT_TOKENS]
        assert {name: tokenizer.encode(name) for name in recorded} == {
            name: [token_id] for name, token_id in recorded.items()
        }


def test_data_parity_bos_eos_and_fillers():
    tokenizer = recorded_tokenizer()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (INFO["bos_token_id"], INFO["eos_token_id"])
    assert tokenizer.vocab_size == INFO["pad_tokenizer_to"]
    first = INFO["filler_pattern"].format(i=0)
    last, last_id = INFO["last_filler"]
    assert tokenizer.encode(first) == [INFO["first_filler_id"]]
    assert tokenizer.encode(last) == [last_id]


@pytest.mark.parametrize("case", TOKENIZER_CASES["cases"], ids=by_text)
def test_data_parity_tokenize(case, unpadded):
    tokenizer = recorded_tokenizer()
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert unpadded.encode(case["text"]) == case["ids_unpadded"]
    assert tokenizer.decode(case["ids"]) == case["decode"]
    assert decode_all(tokenizer, case["ids"]) == case["decode_keep_eos_dropped"]


@pytest.mark.parametrize("case", carried_cases("tokenizer")["cases"], ids=by_text)
def test_data_parity_carried_tokenizer(case, carried):
    """It was cut for the carried texts, so it is asked for those, whichever goldens are used."""
    assert carried.encode(case["text"]) == case["ids"]


@pytest.mark.parametrize(
    ("ids", "cut", "whole"), TOKENIZER_CASES["decode_cases"], ids=lambda value: repr(value)[:30]
)
def test_data_parity_decode(ids, cut, whole):
    tokenizer = recorded_tokenizer()
    assert tokenizer.decode(ids) == cut
    assert decode_all(tokenizer, ids) == whole


@pytest.mark.parametrize(
    ("first", "second", "pieces", "joined"),
    TOKENIZER_CASES["piecewise_vs_joined"],
    ids=lambda value: repr(value)[:30],
)
def test_data_parity_pieces_are_not_joined(first, second, pieces, joined):
    tokenizer = recorded_tokenizer()
    assert tokenizer.encode(first) + tokenizer.encode(second) == pieces
    assert tokenizer.encode(first + second) == joined


# --------------------------------------------------------------------------------- message arrays


def settings(recorded: dict[str, Any]) -> TextSettings:
    names = {
        "max_answer_len": "max_answer_tokens",
        "last_message_loss_only": "last_answer_only",
        "max_text_tokens": "max_text_tokens",
        "max_sequence_length": "max_sequence_length",
    }
    weighting = recorded.get("loss_token_weighting") or "uniform"
    unknown = set(recorded) - set(names) - {"loss_token_weighting"}
    assert not unknown, unknown
    values = {names[key]: value for key, value in recorded.items() if key in names}
    return TextSettings(weight=LOSS_WEIGHTS[weighting], **values)


def message_weight(recorded: Any) -> Any:
    if isinstance(recorded, list):
        return [message_weight(one) for one in recorded]
    if isinstance(recorded, dict):
        names = {"weight": "constant"}
        return MessageWeight(**{names.get(key, key): v for key, v in recorded.items()})
    return recorded


def blocks(case: dict[str, Any]) -> list[VisionBlock]:
    positions = case["mm_pos"] or [None] * len(case["mm"])
    return [
        VisionBlock(np.array(tokens), own if own is None else np.array(own))
        for tokens, own in zip(case["mm"], positions, strict=True)
    ]


def arrays_of(case: dict[str, Any]) -> dict[str, np.ndarray]:
    maker = MessageArrays(recorded_tokenizer(), settings(case["cfg"]))
    messages, weight = case["messages"], message_weight(case["weight"])
    if len(messages) == 1 and len(messages[0]) % 2 and isinstance(messages[0], list):
        return maker.prompt(messages[0], blocks(case))
    if messages and isinstance(messages[0], list):
        return maker.tree(messages, blocks(case), weight)
    if len(messages) % 2:
        return maker.prompt(messages, blocks(case))
    return maker.conversation(messages, blocks(case), weight)


@pytest.mark.parametrize("case", TEXT_CASES["cases"], ids=lambda case: case["name"])
def test_data_parity_message_arrays(case, report_error):
    if "error" in case:
        with pytest.raises(ValueError):
            arrays_of(case)
        return
    arrays = arrays_of(case)
    recorded = {name: np.array(values) for name, (values, _) in case["outputs"].items()}
    loss = recorded.pop("loss_masks")
    recorded.setdefault("subsegment_ids", np.zeros(len(loss)))
    assert set(arrays) == {"loss_masks", *(ARRAYS[name] for name in recorded)}
    assert_same_visibility(arrays["subsegment_ids"], recorded.pop("subsegment_ids"))
    assert arrays["subsegment_ids"].dtype == np.int32
    for name, values in recorded.items():
        np.testing.assert_array_equal(arrays[ARRAYS[name]], values, err_msg=name)
        assert arrays[ARRAYS[name]].dtype == np.int32
    assert arrays["loss_masks"].dtype == np.float32
    np.testing.assert_array_equal(arrays["loss_masks"] == 0, loss == 0)
    error = np.abs(arrays["loss_masks"] - loss) / np.where(loss == 0, 1, loss)
    worst = error.max(initial=0.0)
    report_error("loss weight", worst, LOSS_TOLERANCE)
    assert worst <= LOSS_TOLERANCE


@pytest.mark.parametrize(
    ("segments", "positions"), TEXT_CASES["subsegment_pos_ids"], ids=lambda value: str(value)[1:20]
)
def test_data_parity_positions_within_segments(segments, positions):
    np.testing.assert_array_equal(positions_within_segments(np.array(segments)), positions)
