"""A root folder with all training datasets in their published layout, and tiny videos.

The annotation files are in `tests/fixtures/datasets`; all questions in them are made up. Tables
(Parquet, Arrow) are written from the rows below.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
from pyarrow import ipc, parquet

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "datasets"

EGO_CLIP = "0a1b2c3d-0000-4000-8000-000000000001"
NEXT_QA_OPTIONS = {"a0": " smile", "a1": "cry ", "a2": "run", "a3": "sit", "a4": "sing"}


def _choice(video: str, question: str, **more: Any) -> dict[str, Any]:
    answers = {"Answer": "the right", "NegativeAnswers": ["wrong 1", "wrong 2", "wrong 3"]}
    return {"video_id": video, "Question": question, **answers, "Category": "Object", **more}


_LINES = [{"start": 0.5, "end": 1.25, "text": "Hello."}, {"start": 2.0, "end": 3.0, "text": "Bye."}]

# What is in each table of the layout; an Arrow file lies in the folder of a saved dataset.
TABLES: dict[str, list[dict[str, Any]]] = {
    "CameraBench/camerabench_qa.parquet": [
        {
            "video_path": "a b.mp4",
            "mc_qa_list": [
                {
                    "Question": "How does the camera move?",
                    "Answer": "It pans left.",
                    "NegativeAnswers": ["It pans right.", "It stands still."],
                },
                {
                    "Question": "Does it zoom?",
                    "Answer": "It zooms in.",
                    "NegativeAnswers": ["It zooms out."],
                },
            ],
        },
        {"video_path": "nothing asked.mp4", "mc_qa_list": []},
    ],
    "kinetics/kinetics_corrupt.parquet": [
        {"video": "kinetics600/train/abseiling/bad_000001_000011.mp4"}
    ],
    "coin/coin_corrupt.parquet": [
        {"video_id": "vid1", "metadata": {"clip_start_time": 40.0, "clip_end_time": 45.0}}
    ],
    "perception_test/mc_question_val/validation-00000-of-00001.parquet": [
        {
            "video_name": "video_8241",
            "question_id": "7",
            "question": "What is hidden?",
            "options": ["A ball", "A cup", "A key"],
            "answer_id": "2",
            "area": "memory",
            "reasoning": "descriptive",
        }
    ],
    "perception_test/Test/mc_question/test-00000-of-00001.parquet": [
        {
            "video_name": "video_9",
            "question_id": "3",
            "question": "What falls?",
            "options": ["A ball", "A cup", "A key"],
        }
    ],
    "NeXTQA/MC/test-00000-of-00001.parquet": [
        {
            "video": 5333075105,
            "question": " what does she do ",
            "answer": 3,
            "type": "TN",
            **NEXT_QA_OPTIONS,
        }
    ],
    "cinepile/hf_dataset/train/data-00000-of-00001.arrow": [
        {
            "video_id": "abc",
            "movie_name": "A Film",
            "subtitles": "<subtitle> Hello. \n<subtitle> Bye.\n",
            "examples": [
                {"question": "Who?", "choices": ["he", "she", "they"], "answer_key_position": 1}
            ],
        },
        {
            "video_id": "def",
            "movie_name": "Another",
            "subtitles": "",
            "examples": [
                {"question": "Where?", "choices": ["here", "there"], "answer_key_position": 0}
            ],
        },
    ],
    "video-localized-narratives/hf_dataset/data-00000-of-00001.arrow": [
        {
            "id": "oops_1",
            "video": "oops/oops_video/train/A Fall - 1.mp4",
            "captions": ["He slips.", "It barks."],
            "actor_names": ["Man in Red", "Dog"],
        }
    ],
    "Molmo2-VideoCapQA/data/CapQA-00000-of-00001.parquet": [
        _choice("yt1", "What is built?"),
        _choice("absent", "Absent?"),
        _choice("yt1", "Who builds it?"),
        _choice("yt2", "Where?"),
    ],
    "Molmo2-VideoSubtitleQA/data-00000-of-00001.arrow": [
        _choice("yt1", "What is said?", subtitle=_LINES)
    ],
}

# Videos of which the records are kept only if they are there, and one of each other dataset.
VIDEOS = (
    "TGIF/videos/tumblr_a1.mp4",
    "TVQA/video-frames/frames_hq/bbt_frames/s01e01_seg01_clip_00/video_00004_00008.mp4",
    "sth-sth-v2/videos/0/1.webm",
    f"paxion-ego4d-clips/{EGO_CLIP}_1.500_2.250.mp4",
    "LLaVA-Video-178K/0_30_s_perceptiontest/folder/first.mp4",
    "LLaVA-Video-178K/0_30_s_activitynetqa/folder/first.mp4",
    "perception_test/train_videos/video_10909.mp4",
    "perception_test/videos/video_8241.mp4",
    "perception_test/Test/videos/video_9.mp4",
    "NeXTQA/NExTVideo-all-videos/1000/4010069381.mp4",
    "NeXTQA/NExTVideo/5333075105.mp4",
    "NewsVideoQA/final_data_feb_16/videos/train/1x1.mp4",
    "how2QA/video-clips/ab_-cd_10.5_20.26.mp4",
    "how2QA/video-clips/efgh_5_7.mkv",
    "SUTD-TrafficQA/compressed_videos/b_1.mp4",
    "social-iq2/video/aaa_trimmed-out.mp4",
    "SportsQA/volleyball/v_1.avi",
    "SportsQA/diving/d_2.webm",
    "cinepile/videos/abc/abc.mp4",
    "CLEVRER/video_00000-01000/video_00000.mp4",
    "FunQA/train/train_humor/H_A_1_0001.mp4",
    "FunQA/train/train_creative/C_A_1_0001.mp4",
    "Charades/Charades_v1/6H78U.mp4",
    "Charades/Charades_v1/AO8RW.mp4",
    "Charades/Charades_v1/Y6R7T.mp4",
    "IntentQA/videos/4882821564.mp4",
    "oops/oops_video/train/A Fall - 1.mp4",
    "RoadTextVQA/videos/17.mp4",
    "kinetics/kinetics700/train/doing aerobics/--a_000000_000010.mp4",
    "kinetics/kinetics700/train/riding a bike/a1_000001_000011.mp4",
    "CameraBench/train/a b.mp4",
    "MotionBench/MotionBenchCaption-train/videos/a/1.mp4",
    "moments_in_time/Moments_in_Time_Raw/train-videos-renamed/playing+music/0000000.mp4",
    "coin/videos/vid1.mkv",
    "youcook2/videos/xyz.webm",
    "youcook2/videos/UB1_MNpdvgs.mp4",
    "ActivityNet/all-videos/sJFgo9H6zNo/sJFgo9H6zNo.mp4",
    "ActivityNet/all-videos/V1zhqaGFY2A.mp4",
    f"ego4d-clips/{EGO_CLIP}_347.625_349.000_custom_clip.mp4",
    "epic-kitchens-clips/P01/videos/P01_01_0.140_3.370.mp4",
    "QVHighlights/videos/NUs_60.0_210.0.mp4",
    "youtube-cc/youtube-cc-kw/yt1/a film.mkv",
    "youtube-cc/youtube-cc-temporal/yt1/not this.mp4",
    "youtube-cc/youtube-cc-temporal/yt2/b.mp4",
)
VIDEO_SECONDS = 1.0


def build_root(root: Path) -> Path:
    """All annotation files and videos below `root`."""
    for dataset in sorted(FIXTURES.iterdir()):
        shutil.copytree(dataset, root, dirs_exist_ok=True)
    for name, rows in TABLES.items():
        write_table(root / name, rows)
    for name in VIDEOS:
        write_video(root / name)
    return root


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A Parquet file, or, by its name, an Arrow file with what belongs to a saved dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        state = {"_data_files": [{"filename": path.name}], "_split": None}
        (path.parent / "state.json").write_text(json.dumps(state), encoding="utf-8")
    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".arrow":
        with ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        parquet.write_table(table, path)


def write_video(path: Path) -> Path:
    """A video of VIDEO_SECONDS, whatever its name says of its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_video())
    return path


@functools.cache
def _video() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(5))
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for index in range(5):
                picture = np.full((32, 48, 3), 40 * index, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()
