"""The datasets of the academic video mixture, read from small files in their published layout."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from dataset_fixtures import EGO_CLIP, FIXTURES, build_root
from PIL import Image

from stts_jax.data.datasets import reading
from stts_jax.data.datasets.academic import tvqa_clips
from stts_jax.data.datasets.academic.shared import MULTIPLE_CHOICE, SHORT_ANSWER, split_evenly
from stts_jax.data.datasets.base import Dataset, DatasetError, SourceExample, dataset_class
from stts_jax.data.datasets.mixtures import VIDEO_ACADEMIC

NAMES = [share.dataset for share in VIDEO_ACADEMIC]
# Datasets of which one part or another is drawn with each example.
DRAWN = {
    "how2qa": "options",
    "camerabench_qa": "options",
    "vixmo_syn_video_capqa_v2": "options",
    "vixmo_syn_video_capqa_with_sub_v2": "options",
    "road_text_vqa": "answer",
    "countix_oe": "question",
    "moments_in_time_qa": "question",
    "kinetics_qa": "question",
    "charades_sta_all_qa": "question",
    "coin_all_qa": "question",
    "youcook2_all_qa": "question",
    "activitynet_all_qa": "question",
    "epic_kitchens_qa": "question",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("video_datasets"))


@pytest.fixture
def load(root):
    return lambda name, split=None: dataset_class(name)(root, split)


def example(dataset: Dataset, index: int = 0, seed: int = 0) -> SourceExample:
    return dataset.get(index, np.random.RandomState(seed))


def videos(dataset: Dataset) -> list[str]:
    return [
        example(dataset, index).video.relative_to(dataset.root).as_posix()
        for index in range(len(dataset))
    ]


def clips(dataset: Dataset) -> list[tuple[float, float] | None]:
    return [example(dataset, index).clip for index in range(len(dataset))]


def fields(dataset: Dataset, field: str, index: int = 0) -> list:
    return [annotation.get(field) for annotation in example(dataset, index).annotations]


def frames_of(video: Path) -> list[np.ndarray]:
    with av.open(video) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def answers(dataset: Dataset, index: int = 0) -> list[str]:
    """The text of the right option, or the answer."""
    return [
        annotation["options"][annotation["answer_idx"]]
        if "options" in annotation
        else annotation["answer"]
        for annotation in example(dataset, index).annotations
    ]


class TestEveryDataset:
    @pytest.mark.parametrize("name", NAMES)
    def test_has_a_video_that_decodes_in_its_layout(self, load, name):
        assert len(frames_of(example(load(name)).video)) > 0

    @pytest.mark.parametrize("name", NAMES)
    def test_gives_the_same_example_for_the_same_seed(self, load, name):
        assert example(load(name), seed=3) == example(load(name), seed=3)

    @pytest.mark.parametrize("name", NAMES)
    def test_can_be_sent_to_another_process(self, load, name):
        dataset = load(name)
        assert example(pickle.loads(pickle.dumps(dataset))) == example(dataset)

    @pytest.mark.parametrize("name", NAMES)
    def test_names_itself_and_its_home_where_the_files_are_missing(self, tmp_path, name):
        dataset = dataset_class(name)
        with pytest.raises(DatasetError, match=f"dataset '{dataset.name}'.*{dataset.home}"):
            dataset(tmp_path)

    @pytest.mark.parametrize(("name", "field"), DRAWN.items())
    def test_draws_what_is_random_in_it_with_each_example(self, load, name, field):
        dataset = load(name)
        drawn = {
            json.dumps([annotation.get(field) for annotation in example(dataset, 0, s).annotations])
            for s in range(20)
        }
        assert len(drawn) > 1

    @pytest.mark.parametrize("name", sorted(set(NAMES) - set(DRAWN)))
    def test_draws_nothing_where_nothing_is_random(self, load, name):
        rng = np.random.RandomState(5)
        load(name).get(0, rng)
        assert rng.randint(1 << 30) == np.random.RandomState(5).randint(1 << 30)

    @pytest.mark.parametrize("name", [n for n in NAMES if DRAWN.get(n) == "options"])
    def test_keeps_the_answer_right_wherever_it_is_placed(self, load, name):
        dataset = load(name)
        right = {
            tuple(a["options"][a["answer_idx"]] for a in example(dataset, 0, seed).annotations)
            for seed in range(20)
        }
        assert len(right) == 1


# Dataset, split, and where the split has files of its own in the place of those of training.
SPLITS = [
    ("tgif", "test", ("TGIF/Train_", "TGIF/Test_")),
    ("tvqa_with_sub", "validation", ("tvqa_train", "tvqa_val")),
    ("paxion", "validation", ("/train", "/val")),
    ("paxion", "test", ("/train", "/test")),
    ("nextqa_mc", "validation", ("train.csv", "val.csv")),
    ("news_video_qa_filtered", "validation", ("new_train", "new_val")),
    ("how2qa", "validation", ("QA_train", "QA_val")),
    ("sutd_trafficqa", "test", ("R2_train", "R2_test")),
    ("social_iq2", "validation", ("qa_train", "qa_val")),
    ("sportsqa_oe", "validation", ("train.json", "val.json")),
    ("sportsqa_oe", "test", ("train.json", "test.json")),
    ("clevrer", "validation", ("train.json", "validation.json")),
    ("star", "validation", ("STAR_train", "STAR_val")),
    ("intent_qa", "validation", ("train.csv", "val.csv")),
    ("intent_qa", "test", ("train.csv", "test.csv")),
    ("video_localized_narratives", "validation", ("oops_train", "oops_val")),
    ("road_text_vqa", "validation", ("train.json", "val.json")),
    ("moments_in_time_qa", "validation", ("train_with", "validation_with")),
    ("qv_highlights", "validation", ("highlight_train", "highlight_val")),
    ("activitynet_all_qa", "validation", ("/train_", "/val_")),
]


@pytest.mark.parametrize(("name", "split", "files"), SPLITS, ids=[f"{n}-{s}" for n, s, _ in SPLITS])
def test_a_split_is_read_from_files_of_its_own(root, tmp_path, name, split, files):
    for kind in ("all-videos", "videos", "video"):
        for folder in root.glob(f"*/{kind}"):
            shutil.copytree(folder, tmp_path / folder.relative_to(root), dirs_exist_ok=True)
    shutil.copytree(root / "SportsQA", tmp_path / "SportsQA", dirs_exist_ok=True)
    for source in (FIXTURES / name).rglob("*.*"):
        target = source.relative_to(FIXTURES / name).as_posix().replace(*files)
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / target)
    assert len(dataset_class(name)(tmp_path, split)) == len(dataset_class(name)(root))


class TestTGIF:
    def test_asks_for_actions_with_options_and_without_and_for_all_of_a_video_together(self, load):
        dataset = load("tgif")
        assert fields(dataset, "style") == [MULTIPLE_CHOICE, SHORT_ANSWER, SHORT_ANSWER]
        assert answers(dataset) == ["jump", "jump", "3"]

    def test_keeps_the_word_none_as_an_option(self, load):
        assert fields(load("tgif"), "options")[0] == ["wave", "None", "jump", "nod", "spin"]

    def test_finds_videos_by_the_name_of_the_animation(self, load):
        names = [f"TGIF/videos/tumblr_{name}.mp4" for name in ("a1", "b2", "c3")]
        assert videos(load("tgif")) == names


class TestTVQA:
    def test_shifts_the_lines_spoken_in_a_scene_to_its_start(self, load):
        subtitle = example(load("tvqa_with_sub")).subtitle
        assert {(round(a, 6), round(b, 6)): text for (a, b), text in subtitle.items()} == {
            (-0.3, 0.3): "Partly.",
            (0.8, 1.2): "Within.",
        }

    def test_has_a_style_of_its_own_only_where_lines_are_spoken(self, load):
        dataset = load("tvqa_with_sub")
        assert fields(dataset, "style", 0) == ["video_multiple_choice_w_subtitle"] * 2
        assert fields(dataset, "style", 1) == [MULTIPLE_CHOICE]

    def test_leaves_out_scenes_that_are_missing_corrupt_or_without_times(self, load):
        frames = "TVQA/video-frames/frames_hq"
        assert videos(load("tvqa_with_sub")) == [
            f"{frames}/bbt_frames/s01e01_seg01_clip_00/video_00004_00008.mp4",
            f"{frames}/castle_frames/castle_s01e02_seg02_clip_03/video_00001_00003.mp4",
        ]

    def test_takes_the_clips_that_are_there_if_no_list_of_missing_ones_is(self, root, tmp_path):
        shutil.copytree(root / "TVQA", tmp_path / "TVQA")
        (tmp_path / "TVQA" / "missing_clips.txt").unlink()
        assert len(dataset_class("tvqa_with_sub")(tmp_path)) == 1

    def test_without_subtitles_asks_the_same(self, load):
        shown, hidden = load("tvqa_with_sub"), load("tvqa")
        assert fields(hidden, "question") == fields(shown, "question")
        assert fields(hidden, "style") == [MULTIPLE_CHOICE] * 2
        assert example(hidden).subtitle is None


class TestTVQAClips:
    @pytest.fixture
    def frames(self, tmp_path):
        shutil.copytree(FIXTURES / "tvqa_with_sub", tmp_path, dirs_exist_ok=True)
        (tmp_path / "TVQA" / "missing_clips.txt").unlink()
        folder = (
            tmp_path / "TVQA/video-frames/frames_hq/castle_frames" / "castle_s01e02_seg02_clip_03"
        )
        folder.mkdir(parents=True)
        for number in (1, 3, 4):
            Image.new("RGB", (50, 20), (200, 0, 0)).save(folder / f"{number:05d}.jpg")
        return folder

    def test_are_made_of_the_pictures_of_the_scene_that_are_there(self, frames, tmp_path, capsys):
        tvqa_clips.main([str(tmp_path)])
        assert capsys.readouterr().out == "1 clips made, 3 clips without pictures\n"
        made = frames_of(frames / "video_00001_00003.mp4")
        assert [frame.shape for frame in made] == [(32, 64, 3)] * 2

    def test_are_black_outside_of_the_picture(self, frames, tmp_path):
        tvqa_clips.main([str(tmp_path)])
        pixels = frames_of(frames / "video_00001_00003.mp4")[0]
        assert pixels[:18, :48, 0].min() > 150
        assert pixels[22:].max() < 50

    def test_show_three_pictures_a_second(self, frames, tmp_path):
        tvqa_clips.main([str(tmp_path)])
        with av.open(frames / "video_00001_00003.mp4") as container:
            assert container.streams.video[0].average_rate == 3

    def test_are_then_found_by_the_dataset(self, frames, tmp_path):
        tvqa_clips.main([str(tmp_path)])
        assert len(dataset_class("tvqa_with_sub")(tmp_path)) == 1

    def test_are_not_made_twice(self, frames, tmp_path, capsys):
        tvqa_clips.main([str(tmp_path)])
        tvqa_clips.main([str(tmp_path)])
        assert "1 clips kept" in capsys.readouterr().out


class TestPaxion:
    # What Python's Random(42) gives for the reference's two draws a record on these files.
    ORDER = (
        ["Opening a box", "Not sure", "Closing a box"],
        ["Lifting a cup", "Not sure", "Lowering a cup"],
        ["Not sure", "Moving a cup up", "Moving a cup down"],
        ["Picks up a knife", "Not sure", "Puts down a knife"],
        ["Not sure", "C opens the door", "C closes the door"],
    )

    def test_has_the_order_of_options_that_the_seed_42_gives(self, load):
        dataset = load("paxion")
        found = [options for index in range(4) for options in fields(dataset, "options", index)]
        assert found == list(self.ORDER)

    def test_takes_a_clip_that_was_cut_or_else_the_part_of_the_whole_video(self, load):
        dataset = load("paxion")
        assert videos(dataset)[2:] == [
            f"paxion-ego4d-clips/{EGO_CLIP}_1.500_2.250.mp4",
            f"Ego4d/ego4d_data/v2/full_scale/{EGO_CLIP}.mp4",
        ]
        assert clips(dataset)[2:] == [None, (4.0, 6.0)]

    def test_leaves_out_empty_and_damaged_clips(self, load):
        assert len(load("paxion")) == 4


class TestLLaVAVideo:
    def test_has_no_field_for_options_that_stand_in_the_question(self, load):
        dataset = load("llava_video_mc_academic")
        assert fields(dataset, "style", 1) == [MULTIPLE_CHOICE] * 2
        assert fields(dataset, "options", 1) == [None, None]

    def test_removes_the_mark_for_the_image_and_space_around_answers(self, load):
        dataset = load("llava_video_mc_academic")
        assert fields(dataset, "question", 1)[0].startswith("Why does she smile?\nA. Joy.")
        assert answers(dataset, 1) == ["A. Joy.", "B. Snow."]

    def test_reads_the_first_file_of_a_folder(self, load):
        assert len(load("llava_video_mc_academic")) == 2

    def test_open_ended_questions_have_the_style_of_short_answers(self, load):
        dataset = load("llava_video_oe_academic")
        assert fields(dataset, "style", 1) == [SHORT_ANSWER] * 2
        assert answers(dataset, 1) == ["The dog.", "On the lawn."]

    def test_says_which_file_is_not_there(self, root, tmp_path):
        shutil.copytree(root / "LLaVA-Video-178K", tmp_path / "LLaVA-Video-178K")
        shutil.rmtree(tmp_path / "LLaVA-Video-178K/1_2_m_nextqa")
        with pytest.raises(DatasetError, match=r"1_2_m_nextqa/\*mc\*.json"):
            dataset_class("llava_video_mc_academic")(tmp_path)


class TestPerceptionTest:
    def test_is_trained_on_with_options(self, load):
        dataset = load("perception_test")
        assert videos(dataset) == ["perception_test/train_videos/video_10909.mp4"]
        assert answers(dataset) == ["No", "Oil"]

    def test_is_evaluated_with_options_in_the_question_and_a_letter_to_answer(self, load):
        (annotation,) = example(load("perception_test", "validation")).annotations
        assert annotation == {
            "style": "video_eval_multiple_choice",
            "question": "What is hidden?\nA. A ball\nB. A cup\nC. A key\n"
            "Answer with the option's letter from the given choices directly.",
            "answer": "C",
        }

    def test_tells_the_metric_the_index_of_the_answer(self, load):
        metadata = example(load("perception_test", "validation")).metadata
        assert (metadata["answer_idx"], metadata["area"], metadata["reasoning"]) == (
            2,
            "memory",
            "descriptive",
        )

    def test_has_no_answers_in_its_test_split(self, load):
        dataset = load("perception_test", "test")
        assert videos(dataset) == ["perception_test/Test/videos/video_9.mp4"]
        assert "answer" not in example(dataset).annotations[0]
        assert "answer" not in example(dataset).metadata


class TestNeXTQA:
    def test_finds_videos_through_the_map_of_their_names(self, load):
        assert videos(load("nextqa_mc"))[0] == "NeXTQA/NExTVideo-all-videos/1000/4010069381.mp4"

    def test_puts_the_questions_on_a_video_together(self, load):
        assert answers(load("nextqa_mc")) == ["roll the handle", "finished"]

    def test_is_evaluated_with_options_in_the_question_and_a_letter_to_answer(self, load):
        (annotation,) = example(load("nextqa_mc", "test")).annotations
        assert annotation == {
            "style": "video_eval_multiple_choice",
            "question": "what does she do\nA. smile\nB. cry\nC. run\nD. sit\nE. sing\n"
            "Answer with the option's letter from the given choices directly.",
            "answer": "D",
        }

    def test_tells_the_metric_the_options_without_space_around_them(self, load):
        metadata = example(load("nextqa_mc", "test")).metadata
        assert metadata["options"] == ["smile", "cry", "run", "sit", "sing"]
        assert (metadata["question_type"], metadata["answer"]) == ("TN", "D")


class TestShortAnswers:
    def test_news_leaves_out_blank_answers_and_damaged_videos(self, load):
        dataset = load("news_video_qa_filtered")
        assert answers(dataset) == ["News One", "1999"]
        assert [Path(name).stem for name in videos(dataset)] == ["1x1", "2x5"]

    def test_news_says_that_its_files_cannot_be_searched(self, load):
        metadata = example(load("news_video_qa_filtered")).metadata
        assert metadata == {"decode_method": "av_noseek"}

    def test_sports_finds_videos_whatever_their_extension(self, load):
        assert videos(load("sportsqa_oe")) == [
            "SportsQA/volleyball/v_1.avi",
            "SportsQA/diving/d_2.webm",
        ]

    def test_sports_takes_a_list_of_videos_before_the_folder(self, root, tmp_path):
        shutil.copytree(root / "SportsQA", tmp_path / "SportsQA")
        listed = tmp_path / "SportsQA" / "all_videos.json"
        listed.write_text('["volleyball/v_1.mp4"]', encoding="utf-8")
        assert videos(dataset_class("sportsqa_oe")(tmp_path)) == ["SportsQA/volleyball/v_1.mp4"]

    def test_narratives_leave_out_videos_without_questions(self, load):
        dataset = load("video_localized_narratives")
        assert videos(dataset) == ["oops/oops_video/train/A Fall - 1.mp4"]
        assert answers(dataset) == ["slips on ice", "behind"]

    def test_road_text_draws_one_of_several_answers(self, load):
        drawn = {example(load("road_text_vqa"), 0, s).annotations[1]["answer"] for s in range(30)}
        assert drawn == {"45", "45 mph", "forty five"}

    def test_counts_are_text_and_each_row_an_example(self, load):
        dataset = load("countix_oe")
        assert [answers(dataset, index) for index in range(len(dataset))] == [["4"], ["7"]]

    def test_counts_are_read_from_beside_the_videos_first(self, root, tmp_path):
        videos_folder = tmp_path / "kinetics" / "kinetics700"
        shutil.copytree(root / "Countix", videos_folder)
        assert len(dataset_class("countix_oe")(tmp_path)) == 2

    def test_highlights_list_segments_and_leave_out_long_lists_and_absent_videos(self, load):
        dataset = load("qv_highlights")
        assert len(dataset) == 1
        (annotation,) = example(dataset).annotations
        assert annotation["answer"] == "Segments: [82-150], [0-10]"
        assert annotation["question"].startswith("Here is a query: A family plays cards. Where")


class TestMultipleChoice:
    def test_how2qa_names_clips_by_rounded_times_and_keeps_whole_seconds(self, load):
        names = [Path(name).name for name in videos(load("how2qa"))]
        assert names == ["ab_-cd_10.5_20.26.mp4", "efgh_5_7.mkv"]

    def test_how2qa_takes_extensions_from_the_folder_if_there_is_no_list(self, root, tmp_path):
        shutil.copytree(root / "how2QA", tmp_path / "how2QA")
        (tmp_path / "how2QA" / "extensions.json").unlink()
        assert videos(dataset_class("how2qa")(tmp_path)) == videos(dataset_class("how2qa")(root))

    def test_how2qa_has_four_options(self, load):
        assert sorted(fields(load("how2qa"), "options")[0]) == ["a lid", "a pan", "a pot", "a wok"]

    def test_traffic_leaves_out_empty_options_and_moves_the_answer(self, load):
        dataset = load("sutd_trafficqa")
        assert fields(dataset, "options")[0] == ["No", "Yes"]
        assert answers(dataset) == ["Yes", "Red"]

    def test_social_leaves_out_absent_videos_and_answers_that_are_no_option(self, load):
        dataset = load("social_iq2")
        assert videos(dataset) == ["social-iq2/video/aaa_trimmed-out.mp4"]
        assert answers(dataset) == ["They argue", "They joke"]

    def test_camerabench_leaves_out_videos_without_questions(self, load):
        dataset = load("camerabench_qa")
        assert videos(dataset) == ["CameraBench/train/a b.mp4"]
        assert answers(dataset) == ["It pans left.", "It zooms in."]

    def test_an_answer_beyond_the_options_is_refused_with_the_question(self, root, tmp_path):
        shutil.copytree(root / "TGIF", tmp_path / "TGIF")
        table = tmp_path / "TGIF" / "Train_action_question.csv"
        table.write_text(table.read_text().replace("\t2\t", "\t5\t"))
        with pytest.raises(DatasetError, match="'what does the man do 3 times \\?' has 5 options"):
            dataset_class("tgif")(tmp_path)


class TestBothKinds:
    def test_clevrer_leaves_out_questions_without_exactly_one_right_option(self, load):
        dataset = load("clevrer")
        assert fields(dataset, "style") == [SHORT_ANSWER, MULTIPLE_CHOICE]
        assert answers(dataset) == ["cube", "option 1"]

    def test_clevrer_finds_videos_by_thousands_and_drops_those_without_questions(self, load):
        assert videos(load("clevrer")) == [
            "CLEVRER/video_00000-01000/video_00000.mp4",
            "CLEVRER/video_09000-10000/video_09999.mp4",
        ]

    def test_funqa_leaves_out_times_and_absent_videos(self, load):
        dataset = load("funqa")
        assert answers(dataset) == ["A cat slips.", "It surprises.", "A dog"]
        assert videos(dataset) == [
            "FunQA/train/train_humor/H_A_1_0001.mp4",
            "FunQA/train/train_creative/C_A_1_0001.mp4",
        ]

    def test_funqa_reads_options_from_the_instruction(self, load):
        choice = example(load("funqa")).annotations[2]
        assert choice["question"] == "Which animal is it?"
        assert choice["options"] == ["A cat", "A dog", "It's a cow"]

    def test_funqa_leaves_out_answers_that_are_no_option(self, load):
        assert fields(load("funqa"), "style", 1) == [SHORT_ANSWER]

    def test_star_asks_twice_and_splits_clips_with_more_than_ten(self, load):
        dataset = load("star")
        assert clips(dataset) == [(11.1, 19.6), (11.1, 19.6), (2.0, 5.5)]
        assert fields(dataset, "style", 0) == [SHORT_ANSWER, MULTIPLE_CHOICE] * 3

    def test_star_asks_without_options_where_none_is_right(self, load):
        assert fields(load("star"), "style", 2) == [SHORT_ANSWER]

    def test_star_reads_the_larger_file_if_there_is_no_small_one(self, root, tmp_path):
        (tmp_path / "STAR").mkdir()
        shutil.copy(root / "STAR/STAR_train_qa.json", tmp_path / "STAR/STAR_train.json")
        assert len(dataset_class("star")(tmp_path)) == 3

    def test_intent_asks_twice_and_leaves_out_answers_that_are_no_option(self, load):
        dataset = load("intent_qa")
        assert fields(dataset, "style") == [SHORT_ANSWER, MULTIPLE_CHOICE]
        assert answers(dataset) == ["unwrap it", "unwrap it"]


class TestCaptions:
    def test_motions_are_one_example_a_row(self, load):
        dataset = load("motionbench_train")
        assert len(dataset) == 2
        assert dict(example(dataset).annotations[0]) == {
            "style": "video_motion_caption",
            "text": "A hand turns a wheel.",
        }

    def test_narratives_name_each_actor_in_small_letters(self, load):
        dataset = load("video_localized_narratives_caption")
        assert fields(dataset, "object") == ["man in red", "dog"]
        assert fields(dataset, "text") == ["He slips.", "It barks."]
        assert videos(dataset) == ["oops/oops_video/train/A Fall - 1.mp4"]


class TestSubtitled:
    def test_films_lose_the_marks_in_their_subtitles(self, load):
        assert example(load("cinepile_with_sub")).subtitle == "Hello. \nBye."

    def test_films_have_a_style_of_their_own_only_with_subtitles(self, load):
        dataset = load("cinepile_with_sub")
        assert fields(dataset, "style", 0) == ["video_multiple_choice_w_subtitle"]
        assert fields(dataset, "style", 1) == [MULTIPLE_CHOICE]
        assert example(dataset, 1).subtitle is None

    def test_films_without_subtitles_ask_the_same(self, load):
        dataset = load("cinepile")
        assert (fields(dataset, "style"), example(dataset).subtitle) == ([MULTIPLE_CHOICE], None)

    def test_caption_questions_leave_out_absent_videos(self, load):
        dataset = load("molmo2_syn_captions_qa")
        assert videos(dataset) == [
            "youtube-cc/youtube-cc-kw/yt1/a film.mkv",
            "youtube-cc/youtube-cc-temporal/yt2/b.mp4",
        ]
        assert fields(dataset, "question") == ["What is built?", "Who builds it?"]

    def test_caption_questions_with_subtitles_have_the_style_without(self, load):
        dataset = load("molmo2_syn_captions_subtitle_qa")
        assert example(dataset).subtitle == {(0.5, 1.25): "Hello.", (2.0, 3.0): "Bye."}
        assert fields(dataset, "style") == [MULTIPLE_CHOICE]

    def test_an_empty_folder_of_a_video_is_named(self, root, load):
        dataset = load("molmo2_syn_captions_qa")
        empty = root / "youtube-cc" / "youtube-cc-exist" / "yt1"
        empty.mkdir(parents=True)
        try:
            with pytest.raises(DatasetError, match="youtube-cc-exist/yt1' holds no video"):
                example(load("molmo2_syn_captions_qa"))
        finally:
            empty.rmdir()
        assert example(dataset).video.name == "a film.mkv"


class TestActions:
    def test_moments_leave_out_missing_videos_and_who_acts(self, load):
        dataset = load("moments_in_time_qa")
        labels = [answers(dataset, index) for index in range(len(dataset))]
        assert labels == [["playing music"], ["opening"], ["adult swim"]]

    def test_kinetics_writes_the_label_in_paths_in_the_way_of_each_edition(self, load):
        assert videos(load("kinetics_qa")) == [
            "kinetics/kinetics700/train/riding a bike/a1_000001_000011.mp4",
            "kinetics/kinetics700/train/abseiling/b2_000001_000011.mp4",
            "kinetics/kinetics600/train/riding_a_bike/a1_000001_000011.mp4",
        ]

    def test_kinetics_looks_for_videos_if_there_is_no_list(self, root, tmp_path):
        shutil.copytree(root / "kinetics", tmp_path / "kinetics")
        (tmp_path / "kinetics" / "kinetics_existing_videos.json").unlink()
        assert len(dataset_class("kinetics_qa")(tmp_path)) == 1

    def test_charades_puts_the_sentences_on_a_clip_together(self, load):
        dataset = load("charades_sta_all_qa")
        assert clips(dataset) == [(0.0, 6.9), (20.8, 30.0)]
        assert len(example(dataset).annotations) == 2

    def test_coin_leaves_out_empty_damaged_and_absent_clips(self, load):
        dataset = load("coin_all_qa")
        assert (videos(dataset), clips(dataset)) == (["coin/videos/vid1.mkv"], [(10.0, 20.5)])

    def test_coin_takes_its_own_subset_alone(self, load):
        assert videos(load("coin_all_qa", "test")) == ["coin/videos/vid2.mp4"]

    def test_epic_names_clips_by_times_in_seconds(self, load):
        assert [Path(name).name for name in videos(load("epic_kitchens_qa"))] == [
            "P01_01_0.140_3.370.mp4",
            "P01_01_3605.000_3606.500.mp4",
        ]

    def test_epic_takes_the_clips_that_are_there_from_the_table_without_marks(self, root, tmp_path):
        shutil.copytree(root / "epic-kitchens-clips", tmp_path / "epic-kitchens-clips")
        folder = "epic-kitchens/epic-kitchens-100-annotations"
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(
            root / folder / "EPIC_100_train_with_missing.csv",
            tmp_path / folder / "EPIC_100_train.csv",
        )
        assert len(dataset_class("epic_kitchens_qa")(tmp_path)) == 1


class TestSegments:
    def test_youcook2_asks_on_clips_and_by_times_on_the_whole_video(self, load):
        dataset = load("youcook2_all_qa")
        assert clips(dataset) == [(90, 102), None, (114, 127), None]
        assert fields(dataset, "start_time", 1) == [90, 114]
        assert fields(dataset, "style", 1) == ["video_clip_caption_start_end"] * 2

    def test_youcook2_leaves_out_damaged_clips_but_not_their_times(self, load):
        assert fields(load("youcook2_all_qa"), "text", 3) == ["stir the soup."]

    def test_youcook2_ends_sentences_with_one_stop(self, load):
        texts = fields(load("youcook2_all_qa"), "text", 1)
        assert texts == ["spread margarine on the bread.", "place cheese on it."]

    def test_youcook2_without_times_has_the_style_of_the_reference(self, load):
        dataset = load("youcook2_all_qa_without_times")
        assert fields(dataset, "style", 1) == ["video_clip_short_caption_start_end"] * 2

    def test_activitynet_labels_clips_of_all_subsets_once(self, load):
        dataset = load("activitynet_all_qa")
        assert clips(dataset) == [(0.01, 59.9), (11.0, 23.5), None]
        assert answers(dataset, 0) == ["Drinking beer"]

    def test_activitynet_can_leave_out_the_labels_of_other_subsets(self, load):
        assert clips(load("activitynet_all_qa_own_subset")) == [(0.01, 59.9), None]

    def test_activitynet_ends_questions_with_a_question_mark_and_drops_unanswered_ones(self, load):
        questions = fields(load("activitynet_all_qa"), "question", 2)
        assert questions == ["what is in the glass?", "is it night?"]

    def test_activitynet_finds_videos_in_a_folder_of_their_own_or_beside_each_other(self, load):
        assert videos(load("activitynet_all_qa"))[:2] == [
            "ActivityNet/all-videos/sJFgo9H6zNo/sJFgo9H6zNo.mp4",
            "ActivityNet/all-videos/V1zhqaGFY2A.mp4",
        ]

    def test_ego4d_leaves_out_damaged_clips(self, load):
        dataset = load("ego4d_all")
        assert len(dataset) == 1
        assert fields(dataset, "style") == ["ego4d_mq_label_clip", "ego4d_nlq_temporal_grounding"]


@pytest.mark.parametrize(
    ("count", "at_most", "sizes"),
    [(0, 3, []), (4, None, [4]), (3, 3, [3]), (4, 3, [2, 2]), (10, 4, [4, 3, 3]), (3, 1, [1] * 3)],
)
def test_items_are_split_into_the_fewest_groups_of_even_size(count, at_most, sizes):
    items = [*range(count)]
    groups = list(split_evenly(items, at_most))
    assert [len(group) for group in groups] == sizes
    assert [item for group in groups for item in group] == items


class TestWrongFiles:
    def test_a_dataset_none_of_whose_videos_is_there_says_so(self, root, tmp_path):
        shutil.copytree(root / "social-iq2" / "qa", tmp_path / "social-iq2" / "qa")
        (tmp_path / "social-iq2" / "video").mkdir()
        with pytest.raises(DatasetError, match="'social_iq2': no record of split 'train'"):
            dataset_class("social_iq2")(tmp_path)

    def test_a_record_of_another_form_is_said_to_be_one(self, tmp_path):
        (tmp_path / "CLEVRER").mkdir()
        (tmp_path / "CLEVRER" / "train.json").write_text('[{"video": 1}]')
        with pytest.raises(DatasetError, match=r"'clevrer'.*KeyError: 'video_filename'"):
            dataset_class("clevrer")(tmp_path)

    def test_a_split_that_is_not_there_is_named_with_those_that_are(self, load):
        with pytest.raises(DatasetError, match="no split 'dev'; use one of train, validation"):
            load("star", "dev")

    @pytest.mark.parametrize(
        ("read", "content", "message"),
        [
            (lambda p: reading.read_json(p), "{", "line 1 is not valid JSON"),
            (lambda p: reading.read_json_lines(p), '{"a": 1}\n{', "line 2 is not valid JSON"),
            (lambda p: reading.read_json_lines(p, ["b"]), '{"a": 1}', "record 1 has no field 'b'"),
            (lambda p: reading.read_json_rows(p), "3", "not a list of records"),
            (lambda p: reading.read_json_rows(p), "[3]", "record 1 is not an object"),
            (lambda p: reading.read_json_rows(p), '{"a": [1]}', "nor an object of columns"),
            (lambda p: reading.read_csv(p, ["b"]), "a\n1", r"no column 'b' \(it has a\)"),
            (lambda p: reading.read_csv(p, []), "a\n1,2", "row 1 has 2 cells, the header 1"),
            (lambda p: reading.read_csv_without_header(p, 2), "1", "1 cells instead of 2"),
            (lambda p: reading.read_json_lines_below_header(p, []), '{"a": 1}', "not lists"),
        ],
    )
    def test_a_damaged_file_is_named_with_what_is_wrong(self, tmp_path, read, content, message):
        path = tmp_path / "file"
        path.write_text(content)
        with pytest.raises(DatasetError, match=f"'{path}' has another form.*{message}"):
            read(path)

    @pytest.mark.parametrize(
        "read",
        [
            reading.read_json,
            lambda path: reading.read_csv(path, []),
            lambda path: reading.read_parquet(path, []),
            lambda path: reading.read_arrow(path, []),
        ],
    )
    def test_a_missing_file_is_named(self, tmp_path, read):
        with pytest.raises(DatasetError, match=r"file' does not exist"):
            read(tmp_path / "file")

    def test_text_that_is_not_utf8_is_named(self, tmp_path):
        (tmp_path / "file").write_bytes(b"\xff\xfe")
        with pytest.raises(DatasetError, match="not UTF-8"):
            reading.read_text(tmp_path / "file")

    @pytest.mark.parametrize("value", ["x", None, "2.5", [1], "inf"])
    def test_a_cell_that_is_no_whole_number_is_shown(self, value):
        with pytest.raises(DatasetError, match="whole number"):
            reading.whole_number(value)

    def test_a_cell_that_is_neither_true_nor_false_is_shown(self):
        with pytest.raises(DatasetError, match="'maybe'"):
            reading.truth("maybe")


class TestReading:
    def test_a_byte_order_mark_is_no_part_of_a_column_name(self, tmp_path):
        (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
        assert reading.read_csv(tmp_path / "file", ["a"]) == [{"a": "1", "b": "2"}]

    def test_cells_may_hold_line_ends_and_separators_of_paragraphs(self, tmp_path):
        (tmp_path / "file").write_text('a,b\n"x\ny",p\u2028q\n', encoding="utf-8")
        assert reading.read_csv(tmp_path / "file", []) == [{"a": "x\ny", "b": "p\u2028q"}]

    def test_cells_that_are_missing_at_the_end_are_empty(self, tmp_path):
        (tmp_path / "file").write_text("a,b\n1\n")
        assert reading.read_csv(tmp_path / "file", []) == [{"a": "1", "b": ""}]

    def test_an_object_of_columns_is_read_as_records(self, tmp_path):
        (tmp_path / "file").write_text('{"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}}')
        assert reading.read_json_rows(tmp_path / "file") == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]

    @pytest.mark.parametrize(("value", "number"), [("2", 2), (2.0, 2), ("2.0", 2), (7, 7)])
    def test_whole_numbers_may_be_text_or_have_a_point(self, value, number):
        assert reading.whole_number(value) == number

    def test_a_column_that_a_table_lacks_is_named(self, root):
        with pytest.raises(DatasetError, match="no column 'x'"):
            reading.read_parquet(root / "kinetics/kinetics_corrupt.parquet", ["x"])

    def test_a_damaged_table_is_named(self, tmp_path):
        (tmp_path / "file").write_text("no table")
        for read in (reading.read_parquet, reading.read_arrow):
            with pytest.raises(DatasetError, match="it is not a table"):
                read(tmp_path / "file", [])
