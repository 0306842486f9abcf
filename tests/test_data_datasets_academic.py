"""The datasets of the academic video mixture, read from small files in their published layout."""

from __future__ import annotations

import json
import pickle
import shutil

import data_datasets_academic_cases
import numpy as np
import pytest
from data_datasets_academic_cases import example, frames_of
from dataset_fixtures import FIXTURES

from stts_jax.data.datasets import reading
from stts_jax.data.datasets.base import DatasetError, dataset_class
from stts_jax.data.datasets.mixtures import VIDEO_ACADEMIC

# Fixtures.
root, load = data_datasets_academic_cases.root, data_datasets_academic_cases.load

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
