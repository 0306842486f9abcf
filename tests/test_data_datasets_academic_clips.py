"""Academic datasets of captions, subtitles, actions and segments."""

from __future__ import annotations

import shutil
from pathlib import Path

import data_datasets_academic_cases
import pytest
from data_datasets_academic_cases import answers, clips, example, fields, videos

from stts_jax.data.datasets.academic.shared import MULTIPLE_CHOICE, split_evenly
from stts_jax.data.datasets.base import DatasetError, dataset_class

# Fixtures.
root, load = data_datasets_academic_cases.root, data_datasets_academic_cases.load


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
