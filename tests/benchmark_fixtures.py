"""A root folder with all benchmarks in their published layout, and tiny videos.

The annotation files are in `tests/fixtures/benchmarks`; all questions in them are made up. The
Parquet files there are made from the rows below by `python tests/benchmark_fixtures.py`, which
needs pyarrow.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "benchmarks"
FPS = 4
VIDEO_SECONDS = 2.0

EGO_OPTIONS = ["A. C cuts wood.", "B. C paints.", "C. C reads.", "D. C cooks.", "E. C sleeps."]
MME_OPTIONS = ["A. Paper.", "B. Wood.", "C. Glass.", "D. Steel."]
# Masks as COCO packs them: of x 6 to 29 and y 4 to 19, and of x 30 to 43 and y 10 to 29.
LEFT_COUNTS = "T6`0`0000000000000000000000000000000000000000000000la0"
RIGHT_COUNTS = "Zn0d0<0000000000000000000000000f3"
LEFT_MASK, RIGHT_MASK = ({"size": [32, 48], "counts": c} for c in (LEFT_COUNTS, RIGHT_COUNTS))
TABLES: dict[str, list[dict[str, Any]]] = {
    "ego_schema/egoschema/Subset/test-00000-of-00001.parquet": [
        {
            "question_idx": "0",
            "question": "What is the main thing that C does?",
            "video_idx": "0074f737-11cb-497d-8d07-77c3a8127391",
            "option": EGO_OPTIONS,
            "answer": "3",
        }
    ],
    "ego_schema/egoschema/MC/test-00000-of-00001.parquet": [
        {
            "question_idx": "17",
            "question": "What does C do first?",
            "video_idx": "00aa7247-9a4b-4667-8588-37df29d40fe8",
            "option": EGO_OPTIONS,
            "answer": None,
        }
    ],
    "video_mme/Video-MME/videomme/test-00000-of-00001.parquet": [
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Handicraft",
            "url": "https://example.invalid/fFjv93ACGo8",
            "videoID": "fFjv93ACGo8",
            "question_id": "001-1",
            "task_type": "Object Recognition",
            "question": "What is folded in the video?",
            "options": MME_OPTIONS,
            "answer": "A",
        },
        {
            "video_id": "601",
            "duration": "long",
            "domain": "Knowledge",
            "sub_category": "Technology",
            "url": "https://example.invalid/N1cdUjctpG8",
            "videoID": "N1cdUjctpG8",
            "question_id": "601-2",
            "task_type": "Counting Problem",
            "question": "What is the bridge made of?",
            "options": MME_OPTIONS,
            "answer": "D",
        },
    ],
    "video_eval_pro/VideoEvalPro/data/test-00000-of-00001.parquet": [
        {
            "video": "b1VMVOBP5Hs.mp4",
            "question": "Which drawer is opened?",
            "options": ["A. The upper", "B. The middle", "C. The lower"],
            "answer": "C",
            "answer_text": "The lower",
            "meta": '{"duration": 2}',
            "source": "lvbench",
            "qa_subtype": "Object Recognition",
            "qa_type": "Local Perception",
        }
    ],
    "molmo2_pointing/Molmo2-VideoPointEval/data/val-00000-of-00001.parquet": [
        {
            "video_id": "aB3_dEf-9gH",
            "video_source": "youtube",
            "label": "ball",
            "two_fps_timestamps": [0.5, 1.0],
            "points": [{"x": 12.0, "y": 8.0}, {"x": 36.0, "y": 20.0}],
            "masks": [
                [{"frame_id": 0, "rle": LEFT_MASK}, {"frame_id": 1, "rle": LEFT_MASK}],
                [{"frame_id": 2, "rle": RIGHT_MASK}],
            ],
            "height": 32,
            "width": 48,
            "video_duration": 2.0,
        },
        {
            "video_id": "sora2/a_red_kite",
            "video_source": "generated",
            "label": "red kite",
            "two_fps_timestamps": [1.5],
            "points": [{"x": 12.0, "y": 8.0}],
            "masks": [[{"frame_id": 3, "rle": LEFT_MASK}]],
            "height": 32,
            "width": 48,
            "video_duration": 2.0,
        },
    ],
    "molmo2_pointing/Molmo2-VideoCountEval/data/val-00000-of-00001.parquet": [
        {
            "video_id": "aB3_dEf-9gH",
            "video_source": "youtube",
            "video_duration": 2.0,
            "clip_start": 0.5,
            "clip_end": 1.5,
            "label": "dogs",
            "question": "How many dogs are there in the video?",
            "count": 3,
            "category": "animal",
        },
        {
            "video_id": "qW5rT_2",
            "video_source": "MammalNet",
            "video_duration": 2.0,
            "clip_start": None,
            "clip_end": None,
            "label": "times the bear stands up",
            "question": "How many times does the bear stand up?",
            "count": 12,
            "category": "action/event",
        },
    ],
}

VIDEOS = (
    "MVBench/video/star/Charades_v1_480/ZS9XR.mp4",
    "MVBench/video/ssv2_video/166583.webm",
    "MVBench/video/Moments_in_Time_Raw/videos/baking/3.mp4",
    "MVBench/video/FunQA_test/test/test_humor/H_A_101.mp4",
    "MVBench/video/clevrer/video_validation/video_10009.mp4",
    "MVBench/video/perception/videos/video_4.mp4",
    "MVBench/video/sta/sta_video/ZS9XR.mp4",
    "MVBench/video/scene_qa/video/Top002_08341.mp4",
    "MVBench/video/nturgbd/S011C003P038R002A055_rgb.avi",
    "MVBench/video/vlnqa/1.mp4",
    "MVBench/video/tvqa/frames_fps3_hq/castle_s01e02_seg02_clip_00/video.mp4",
    "MotionBench/MotionBench/self-collected/own.mp4",
    "MotionBench/MotionBench/public-dataset/public.mp4",
    "TempCompass/videos/1034419625.mp4",
    "TempCompass/videos/1034419625_reverse.mp4",
    "egoschema/videos/0074f737-11cb-497d-8d07-77c3a8127391.mp4",
    "egoschema/videos/00aa7247-9a4b-4667-8588-37df29d40fe8.mp4",
    "TOMATO/videos/human/0246-06.mp4",
    "TOMATO/videos/object/0390-01.mp4",
    "TOMATO/videos/simulated/0001-00.mp4",
    "Video-MME/data/fFjv93ACGo8.mp4",
    "Video-MME/data/N1cdUjctpG8.mp4",
    "LongVideoBench/videos/86CxyhFV9MI.mp4",
    "LongVideoBench/videos/TGom0uiW130.mp4",
    "MVLU/MLVU/video/1_plotQA/movie101_66.mp4",
    "MVLU/MLVU/video/1_plotQA/movie101_67.mp4",
    "MVLU/MLVU/video/2_needle/needle_1.mp4",
    "MVLU/MLVU/video/3_ego/ego_1.mp4",
    "MVLU/MLVU/video/4_count/count_1.mp4",
    "MVLU/MLVU/video/5_order/order_1.mp4",
    "MVLU/MLVU/video/6_anomaly_reco/surveil_1.mp4",
    "MVLU/MLVU/video/7_topic_reasoning/AWA-1.mp4",
    "MVLU/MLVU/video/8_sub_scene/subPlot_new_all_1.mp4",
    "MVLU/MLVU/video/9_summary/217.mp4",
    "MLVU_Test/MLVU_Test/video/test_AR_0.mp4",
    "MLVU_Test/MLVU_Test/video/test_ER_1.mp4",
    "LVBench/Cm73ma6Ibcs.mp4",
    "VideoEvalPro/videos/videos_filtered/b1VMVOBP5Hs.mp4",
    "youtube-cc/youtube-cc-kw-2fps/aB3_dEf-9gH_2fps.mp4",
    "MammalNet/trimmed_video-2fps/qW5rT_2_2fps.mp4",
    "generated_videos/sora2-2fps/a_red_kite_2fps.mp4",
)


def build_root(root: Path) -> Path:
    """All annotation files and videos below `root`."""
    for benchmark in sorted(FIXTURES.iterdir()):
        shutil.copytree(benchmark, root, dirs_exist_ok=True)
    for name in VIDEOS:
        write_video(root / name)
    return root


def write_video(path: Path) -> Path:
    """A video of VIDEO_SECONDS, whatever its name says of its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_video())
    return path


@functools.cache
def _video() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for index in range(round(VIDEO_SECONDS * FPS)):
                image = np.full((32, 48, 3), 20 * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def write_tables() -> None:
    """Make the Parquet files anew."""
    import pyarrow
    from pyarrow import parquet

    for name, rows in TABLES.items():
        path = FIXTURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.Table.from_pylist(rows)
        if "answer" in rows[0] and rows[0]["answer"] is None:
            column = table.column_names.index("answer")
            empty = pyarrow.nulls(len(rows), pyarrow.string())
            table = table.set_column(column, "answer", empty)
        parquet.write_table(table, path, compression="none")


if __name__ == "__main__":
    write_tables()
