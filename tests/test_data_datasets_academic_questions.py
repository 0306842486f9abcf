"""Academic datasets of questions: with options, for short answers, or both."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import data_datasets_academic_cases
import pytest
from data_datasets_academic_cases import (
    answers,
    clips,
    example,
    fields,
    frames_of,
    videos,
)
from dataset_fixtures import EGO_CLIP, FIXTURES
from PIL import Image

from stts_jax.data.datasets.academic import tvqa_clips
from stts_jax.data.datasets.academic.shared import MULTIPLE_CHOICE, SHORT_ANSWER
from stts_jax.data.datasets.base import DatasetError, dataset_class

# Fixtures.
root, load = data_datasets_academic_cases.root, data_datasets_academic_cases.load


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
