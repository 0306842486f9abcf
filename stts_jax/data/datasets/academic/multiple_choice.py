"""Datasets of questions with options."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence

from stts_jax.data.datasets.academic.shared import (
    ByVideo,
    Choice,
    UnplacedChoice,
    VideoDataset,
    VideoRecord,
)
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.looked_at import is_dir, is_file
from stts_jax.data.datasets.reading import (
    list_files,
    read_csv_without_header,
    read_json,
    read_json_lines,
    read_json_lines_below_header,
    read_json_rows,
    read_parquet,
    whole_number,
)


@register("paxion")
class Paxion(VideoDataset):
    """Choices of the description that fits: an action, its antonym, or "Not sure".

    Files: `paxion/ssv2/antonyms/{split}_with_rel_path.json` with videos in `sth-sth-v2/videos`,
    and `paxion/ego4d/egoclip_subset_action_antonyms_train_val_test_split/{split}.jsonl` with clips
    `paxion-ego4d-clips/{uid}_{start:.3f}_{end:.3f}.mp4`, or else the whole videos of Ego4D.
    Question and order of the options come from `Random(42)`, and so are part of the dataset.
    Source: docs/reference.md#training-datasets; olmo/data/academic_video_datasets.py, `Paxion`.
    """

    splits = ("train", "validation", "test")
    home = "huggingface.co/datasets/allenai/Molmo2-Paxion"
    folder = "paxion"

    SEED = 42
    QUESTIONS = (
        "What activity does the video depict?",
        "What is the action performed by the person in the video?",
        "Which one of these descriptions correctly matches the actions in the video?",
    )
    CORRUPT_VIDEO = "703d550a-0a84-4bcf-9b45-e25c864ade70"
    CORRUPT_CLIP = "1348c9f9-fc8b-40c7-b1ab-5b6281e5d390_978.617_979.098.mp4"

    def collect(self) -> Iterator[VideoRecord]:
        rng = random.Random(self.SEED)
        by_video = ByVideo()
        path = self.file(f"ssv2/antonyms/{self.short_split}_with_rel_path.json")
        columns: tuple[str, ...] = ("rel_vid_path", "label", "label_action_antonym_clip_text")
        for row in read_json_rows(path, columns):
            draft = self._ask(row["label"], row["label_action_antonym_clip_text"], rng)
            by_video.add(f"sth-sth-v2/videos/{row['rel_vid_path']}", draft)

        folder = self.file("ego4d/egoclip_subset_action_antonyms_train_val_test_split")
        columns = ("video_uid", "clip_start", "clip_end", "clip_text")
        clips = self._clips()
        for row in read_json_lines(
            folder / f"{self.short_split}.jsonl", (*columns, "action_antonym_clip_text")
        ):
            start, end = float(row["clip_start"]), float(row["clip_end"])
            name = f"{row['video_uid']}_{start:.3f}_{end:.3f}.mp4"
            if start >= end or row["video_uid"] == self.CORRUPT_VIDEO or name == self.CORRUPT_CLIP:
                continue
            antonym = row["action_antonym_clip_text"]
            draft = self._ask(_sentence(row["clip_text"]), _sentence(antonym), rng)
            if name in clips:
                by_video.add(f"paxion-ego4d-clips/{name}", draft)
            else:
                video = f"Ego4d/ego4d_data/v2/full_scale/{row['video_uid']}.mp4"
                by_video.add(video, draft, clip=(start, end))
        return by_video.records()

    def _ask(self, answer: str, antonym: str, rng: random.Random) -> Choice:
        question = rng.choice(self.QUESTIONS)
        options = rng.sample([answer, antonym, "Not sure"], 3)
        return Choice(question, options, options.index(answer))

    def _clips(self) -> frozenset[str]:
        folder = self.root / "paxion-ego4d-clips"
        return list_files(folder) if is_dir(folder) else frozenset()


@register("how2qa")
class How2QA(VideoDataset):
    """Questions on clips of instruction videos; the position of the answer is random.

    Files: `how2QA/how2QA_{split}_release.csv`, without header: video, "[start:end]", three wrong
    answers, question, answer; clips `how2QA/video-clips/{video}_{start}_{end}.{extension}`, times
    rounded to two decimals. `how2QA/extensions.json` gives the extensions, or else the folder.
    Source: docs/reference.md#training-datasets; `How2QA`.
    """

    splits = ("train", "validation")
    home = "github.com/ych133/How2R-and-How2QA"
    folder = "how2QA"

    CORRUPT_VIDEO = "Z1NEMNKgR9U"
    CORRUPT_CLIPS = ("onGTfd-EKrs_89.15_89.44.mp4", "bkl7eK8B6ig_147.73_149.83.mp4")

    def collect(self) -> Iterator[VideoRecord]:
        extensions = self._extensions()
        by_video = ByVideo()
        path = self.file(f"how2QA_{self.short_split}_release.csv")
        for video, times, *wrong, question, answer in (
            row[:7] for row in read_csv_without_header(path, 7)
        ):
            start, end = _times(times)
            if start >= end or video == self.CORRUPT_VIDEO or video not in extensions:
                continue
            name = f"{video}_{round(start, 2)}_{round(end, 2)}.{extensions[video]}"
            if name not in self.CORRUPT_CLIPS:
                draft = UnplacedChoice(question, answer, wrong)
                by_video.add(f"{self.folder}/video-clips/{name}", draft)
        return by_video.records()

    def _extensions(self) -> dict[str, str]:
        known = self.file("extensions.json")
        if is_file(known):
            return read_json(known)
        extensions: dict[str, str] = {}
        for name in sorted(list_files(self.file("video-clips"))):
            stem, _, extension = name.rpartition(".")
            extensions.setdefault(stem.rsplit("_", 2)[0], extension)
        return extensions


@register("sutd_trafficqa")
class SUTDTrafficQA(VideoDataset):
    """Questions on traffic; empty options are left out.

    Files: `SUTD-TrafficQA/R2_{split}.jsonl`, a list on each line, the first of which names the
    columns; `SUTD-TrafficQA/compressed_videos/{vid_filename}`. Source:
    docs/reference.md#training-datasets; `SUTDTrafficQA`.
    """

    splits = ("train", "test")
    home = "sutdcv.github.io/SUTD-TrafficQA"
    folder = "SUTD-TrafficQA"

    def collect(self) -> Iterator[VideoRecord]:
        names = [f"option{number}" for number in range(4)]
        columns = ("vid_filename", "q_body", "answer", *names)
        by_video = ByVideo()
        for row in read_json_lines_below_header(self.file(f"R2_{self.split}.jsonl"), columns):
            answer = row[names[whole_number(row["answer"])]]
            options = [row[name] for name in names if row[name]]
            draft = Choice(row["q_body"], options, options.index(answer))
            by_video.add(f"{self.folder}/compressed_videos/{row['vid_filename']}", draft)
        return by_video.records()


@register("social_iq2")
class SocialIQ2(VideoDataset):
    """Questions on what people feel and mean; those whose video is absent are left out.

    Files: `social-iq2/qa/qa_{split}.json`, an object on each line; `social-iq2/video/{name}.mp4`.
    Source: docs/reference.md#training-datasets; `SocialIQ2`.
    """

    splits = ("train", "validation")
    home = "github.com/abwilf/Social-IQ-2.0-Challenge"
    folder = "social-iq2"

    def collect(self) -> Iterator[VideoRecord]:
        present = list_files(self.file("video"))
        names = [f"a{number}" for number in range(4)]
        by_video = ByVideo()
        for row in read_json_lines(
            self.file(f"qa/qa_{self.short_split}.json"),
            ("vid_name", "q", "answer_idx", *names),
        ):
            video, answer = f"{row['vid_name']}.mp4", whole_number(row["answer_idx"])
            if video in present and answer < len(names):
                draft = Choice(row["q"], [row[name] for name in names], answer)
                by_video.add(f"{self.folder}/video/{video}", draft)
        return by_video.records()


@register("camerabench_qa")
class CameraBench(VideoDataset):
    """Questions on the motion of the camera; the position of the answer is random.

    Files: `CameraBench/camerabench_qa.parquet`, with the list `mc_qa_list` of each video;
    `CameraBench/train/{video_path}`. Source: docs/reference.md#training-datasets;
    `CameraBenchTrain`.
    """

    home = "huggingface.co/datasets/allenai/Molmo2-CameraBenchTrain"
    folder = "CameraBench"

    def collect(self) -> Iterator[VideoRecord]:
        path = self.file("camerabench_qa.parquet")
        for row in read_parquet(path, ("video_path", "mc_qa_list")):
            drafts = [
                UnplacedChoice(asked["Question"], asked["Answer"], list(asked["NegativeAnswers"]))
                for asked in row["mc_qa_list"]
            ]
            if drafts:
                yield VideoRecord(f"{self.folder}/train/{row['video_path']}", drafts)


def _times(text: str) -> Sequence[float]:
    """Start and end of "[12.3:45]"; an integer stays one, as file names have it so."""
    start, end = ast.literal_eval(text.replace(":", ","))
    return start, end


def _sentence(label: str) -> str:
    """A description without the mark "#C" that may lead it, from a capital letter on."""
    if label.startswith("#") and len(label) > 1 and not label[1].isspace():
        label = label[2:].lstrip()
    return label[:1].upper() + label[1:]
