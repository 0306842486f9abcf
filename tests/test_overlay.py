"""Pictures of what is kept: of frames of any size, with a scale of their colours."""

import numpy as np
import pytest
from video_reading import read_video

from stts_jax.evaluation.overlay import (
    COLUMNS,
    LARGEST,
    LEGEND,
    contact_sheet,
    looked_at,
    overlay_video,
)

SIZES = [(1, 64), (64, 1), (1, 1), (33, 47), (720, 1280), (2160, 3840)]


def kept_of(frames):
    scores = np.random.RandomState(0).rand(len(frames), 16).astype(np.float32)
    return scores > 0.5, scores


@pytest.mark.parametrize("size", SIZES)
def test_frames_of_any_size_are_drawn(tmp_path, size):
    frames = np.stack([looked_at(np.full((*size, 3), level, np.uint8)) for level in (50, 200)])
    keep, scores = kept_of(frames)
    overlay_video(tmp_path / "12:30.mp4", frames, keep, scores, fps=2.0)
    drawn = read_video(tmp_path / "12:30.mp4", 2, 2.0).frames
    height, width = frames.shape[1:3]
    assert drawn.shape == (2, height + LEGEND, 3 * width, 3)
    assert max(height, width) <= LARGEST
    sheet = contact_sheet(frames, np.array([0.0, 0.5]), keep, scores)
    assert sheet.width < 1000 and sheet.height < 500


def test_frames_that_are_not_shrunk_first_are_drawn_in_the_same_size(tmp_path):
    frames = np.zeros((1, 1200, 1600, 3), np.uint8)
    overlay_video(tmp_path / "a.mp4", frames, *kept_of(frames), fps=2.0)
    assert read_video(tmp_path / "a.mp4", 1, None).frames.shape[1:3] == (480 + LEGEND, 3 * 640)


def test_a_frame_that_is_small_enough_keeps_its_pixels():
    frame = np.random.RandomState(0).randint(0, 256, (96, 128, 3)).astype(np.uint8)
    assert looked_at(frame) is frame


def test_a_large_frame_shrinks_smoothly():
    stripes = np.zeros((1280, 1280, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(looked_at(stripes)[8:-8, 8:-8].astype(int) - 100).max() < 12


def test_the_scale_goes_from_the_lowest_to_the_highest_colour():
    frames = np.zeros((1, 64, 300, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, np.zeros(1), *kept_of(frames)))
    row = sheet[-LEGEND // 2].astype(int)
    colourful = np.flatnonzero(np.ptp(row, axis=-1) > 30)
    first, last = row[colourful[0]], row[colourful[-1]]
    assert first[2] > first[1]  # viridis begins with violet
    assert last[0] > 200 > last[2]  # and ends with yellow


def test_a_sheet_has_lines_of_about_the_same_length():
    frames = np.zeros((COLUMNS + 1, 16, 16, 3), np.uint8)
    one = contact_sheet(frames[:1], np.zeros(1), *kept_of(frames[:1]))
    sheet = contact_sheet(frames, np.arange(9.0), *kept_of(frames))
    assert sheet.width == 5 * (144 + 4) - 4
    assert sheet.height == 2 * one.height - LEGEND
