"""The fixed rule, judges, points and tracks: what the recordings of the reference don't show."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from stts_jax.evaluation.scoring import letters
from stts_jax.evaluation.scoring.careful import named_option
from stts_jax.evaluation.scoring.choices import option_wordings
from stts_jax.evaluation.scoring.judge import HttpJudge, JudgeError
from stts_jax.evaluation.scoring.pointing import careful_count, published_count
from stts_jax.evaluation.scoring.registry import metric_named, metric_names
from stts_jax.evaluation.scoring.score import (
    Score,
    ScoringError,
    guess_generator,
    score_answers,
    summarize,
)
from stts_jax.evaluation.scoring.tracking import frame_scores, higher_order_accuracy

DOORS = ("opens the door", "sits down", "waves hello", "runs away")


def summary_of(metric, answers, metadata, **arguments):
    metric = metric_named(metric, **arguments)
    return summarize(metric, score_answers(metric, answers, metadata))


# ----------------------------------------------------------------------------- the careful reader


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", 1),
        ("b", 1),
        ("(b)", 1),
        ("'B'", 1),
        ("**B**", 1),
        ("B: sits down", 1),
        ("B sits down", 1),
        ("sits down", 1),
        ("Sits down.", 1),
        ("Answer: B", 1),
        ("The best option is B", 1),
        ("Best answer: B", 1),
        ("<|im_end|>B", 1),
        ("I think that the correct answer must be option B since it is visible", 1),
        ("B, not A", 1),
        ("B is correct, A is not", 1),
        ("D. A book", 3),
        ("A is right", 0),
        ("He comes in and opens the door", 0),
    ],
)
def test_a_named_option_is_read(text, option):
    assert named_option(text, 4, DOORS) == option


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I don't know",
        "E",
        "Because",
        "A boy is running",
        "B or C",
        "A, B",
        "B/C",
        "opens the door and sits down",
        "AB",
    ],
)
def test_an_answer_that_names_no_option_or_two_is_read_as_none(text):
    assert named_option(text, 4, DOORS) is None


def test_a_wording_within_another_is_not_taken_for_it():
    assert named_option("it is dark red there", 3, ("red", "dark red", "blue")) == 1


def test_a_wording_beside_a_longer_one_leaves_the_answer_open():
    assert named_option("it is red and dark red", 3, ("red", "dark red", "blue")) is None


@pytest.mark.parametrize(
    "options", [["A. red", "B. blue"], ["(A) red", "(B) blue"], {"A": "red", "B": "blue"}]
)
def test_options_lose_their_letters(options):
    assert option_wordings({"options": options}) == ["red", "blue"]


def test_options_that_only_begin_like_letters_are_kept():
    assert option_wordings({"options": ["A. red", "C. blue"]}) == ["A. red", "C. blue"]


# ---------------------------------------------------------------------------------- the two rules


VIDEO_MME = {"answer": "B", "duration": "long", "sub_category": "Law", "task_type": "OCR Problems"}


def test_video_mme_leaves_unread_answers_out_and_the_fixed_rule_counts_them():
    summary = summary_of("video_mme", ["B", "I don't know"], [VIDEO_MME] * 2)
    assert (summary.value, summary.published["all"].count) == (1.0, 1)
    assert (summary.fixed_value, summary.fixed["all"].count) == (0.5, 2)
    assert summary.notes() == ["left out by the published rule: 1"]


def test_a_lead_in_is_misread_by_the_published_rule_only():
    score = metric_named("video_mme")("Best answer: C", VIDEO_MME | {"answer": "C"}, None)["all"]
    assert score == Score(value=0.0, fixed=1.0)


@pytest.mark.parametrize("metric", ["nextqa_mc", "ego_schema_mc", "muir_bench_mc"])
def test_an_unread_answer_is_a_guess_by_the_published_rule_and_wrong_by_the_fixed_one(metric):
    metadata = {"options": [*DOORS, "sleeps"], "answer": "B", "answer_idx": 1}
    summary = summary_of(metric, ["?"] * 40, [metadata] * 40)
    assert summary.guessed == 40
    assert 0 < summary.value < 1
    assert summary.fixed_value == 0


def test_a_guess_is_one_of_the_letters_and_depends_on_the_question_alone():
    drawn = [letters.long_video_bench_letter("?", DOORS, guess_generator(i)) for i in range(40)]
    again = [letters.long_video_bench_letter("?", DOORS, guess_generator(i)) for i in range(40)]
    assert {reading.letter for reading in drawn} == set("ABCD")
    assert drawn == again


def test_an_answer_that_begins_with_the_right_letter_by_chance_is_wrong_by_the_fixed_rule():
    score = metric_named("em_start")("Because of the rain", {"answer": "B."}, None)["em_start"]
    assert score == Score(value=1.0, fixed=0.0)


def test_zeros_are_equal_by_the_fixed_rule():
    score = metric_named("relaxed_correctness")("0.0", {"answers": ["0"]}, None)
    assert score["relaxed_correctness"] == Score(value=0.0, fixed=1.0)


def test_open_answers_of_temporal_bench_are_compared_by_the_fixed_rule():
    metadata = {"answer": "x", "type": "caption"}
    assert metric_named("temporal_bench")("y", metadata, None)["all"] == Score(1.0, 0.0)


def test_a_segment_that_ends_before_it_starts_is_wrong_by_the_fixed_rule():
    score = metric_named("qv_highlights")("[0-10], [9-5]", {"relevant_windows": [[0, 10]]}, None)
    assert score["precision"] == Score(value=1.0, fixed=0.5)


def test_scores_are_split_by_kind_of_task():
    metadata = [{"answer": "A", "task_type": "count"}, {"answer": "A", "task_type": "order"}]
    summary = summary_of("em_start", ["A", "B"], metadata)
    assert summary.published["em_start_count"].value == 1
    assert summary.published["em_start_order"].value == 0


def test_scores_are_split_by_difficulty_where_it_is_known():
    summary = summary_of("video_mme", ["B"], [VIDEO_MME | {"sample_difficulty": "hard"}])
    assert summary.published["all_hard"].count == 1
    assert summary.published["all_easy"].count == 0


@pytest.mark.parametrize(
    ("metric", "metadata"),
    [
        ("nextqa_mc", {"answer": "A"}),
        ("ego_schema_mc", {"options": [*DOORS, "sleeps"], "answer_idx": None}),
        ("em_start", {"answer": "NA"}),
    ],
)
def test_a_question_without_a_published_answer_is_an_error_that_names_it(metric, metadata):
    with pytest.raises(ScoringError, match=f"metric '{metric}' needs .* of example 'q7'"):
        metric_named(metric)("A", metadata | {"example_id": "q7"}, guess_generator(0))


def test_an_unknown_metric_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ScoringError, match=r"no metric is called 'accuracy'; known are .*nextqa_mc"
    ):
        metric_named("accuracy")


def test_answers_and_questions_must_be_as_many():
    with pytest.raises(ScoringError, match="2 answers to 1 questions"):
        score_answers(metric_named("em"), ["a", "b"], [{"answer": "a"}])


@pytest.mark.parametrize("name", metric_names())
def test_a_metric_of_no_answers_has_no_value(name):
    assert np.isnan(summary_of(name, [], []).value)


# ----------------------------------------------------------------------------------------- judges


class Recorder:
    """A judge that says the same to all and remembers what it was asked."""

    def __init__(self, opinion):
        self.opinion = opinion
        self.asked = []

    def __call__(self, instructions, request):
        self.asked.append((instructions, request))
        return self.opinion


CHOICE = {
    "task": "multi-choice",
    "temporal_aspect": "order",
    "question": "Which?\nA. up\nB. down",
    "answer": "B. down",
}
YES = {"task": "yes_no", "temporal_aspect": "speed", "question": "Is it fast?", "answer": "yes"}


def test_what_rules_can_read_is_not_sent_to_the_judge():
    judge = Recorder("Incorrect")
    summary = summary_of("temp_compass", ["B", "Yes."], [CHOICE, YES], judge=judge)
    assert (judge.asked, summary.value) == ([], 1.0)


@pytest.mark.parametrize(("opinion", "value"), [("Correct", 1.0), ("Incorrect.", 0.0)])
def test_what_rules_cannot_read_is_judged(opinion, value):
    judge = Recorder(opinion)
    summary = summary_of("temp_compass", ["it moves quickly"], [YES], judge=judge)
    assert (summary.value, summary.fixed_value, summary.not_judged) == (value, value, 0)
    assert "it moves quickly" in judge.asked[0][1]


def test_without_a_judge_such_questions_are_reported_as_not_judged():
    summary = summary_of("temp_compass", ["Yes", "it moves quickly"], [YES, YES])
    assert summary.value == 0.5
    assert (summary.fixed_value, summary.fixed["all"].count) == (1.0, 1)
    assert summary.notes() == ["not judged: 1"]


def test_the_fixed_rule_reads_words_where_the_published_one_reads_beginnings():
    score = metric_named("temp_compass")("Noah runs", YES | {"answer": "no"}, None)["all"]
    assert score == Score(value=1.0, fixed=None)


def test_a_caption_is_matched_by_its_sentence_by_the_fixed_rule():
    metadata = {
        "task": "caption_matching",
        "temporal_aspect": "order",
        "question": "Which?\nOption 1: It goes up\nOption 2: It goes down",
        "answer": "Option 2: It goes down",
    }
    score = metric_named("temp_compass")("It goes down", metadata, None)["all"]
    assert score == Score(value=0.0, fixed=1.0)


def test_captions_are_judged_by_the_option_that_the_judge_chooses_from_them():
    metadata = CHOICE | {
        "task": "captioning",
        "mc_question": "Where?\nA. up\nB. down",
        "mc_answer": "B. down",
    }
    judge = Recorder("Reason: it falls\nAnswer: B. down")
    assert summary_of("temp_compass_all", ["It falls."], [metadata], judge=judge).value == 1
    assert summary_of("temp_compass_all", ["It falls."], [metadata]).not_judged == 1


SUMMARY = {"task_type": "summary", "answer": "A dog goes home."}


def test_marks_of_open_tasks_are_read_and_added_up():
    scene = {"task_type": "sub_scene", "question": "What?", "scoring_points": ["a dog"]}

    def judge(instructions, request):
        if "accuracy" in instructions:
            return "{'score_accuracy': 4, 'score_relevance': 5}"
        return '{"score_completeness": 2, "score_reliability": 3}'

    summary = summary_of("mlvu_gen", ["A dog", "A cat"], [scene, SUMMARY], judge=judge)
    assert summary.published["sub_scene_accuracy"].value == 4
    assert summary.value == (9 + 5) / 2


def test_open_tasks_are_not_judged_without_a_judge():
    summary = summary_of("mlvu_gen", ["A cat"], [SUMMARY])
    assert np.isnan(summary.value)
    assert summary.not_judged == 1


def test_a_mark_that_the_judge_leaves_out_counts_as_none_given():
    summary = summary_of("mlvu_gen", ["A cat"], [SUMMARY], judge=Recorder("no marks"))
    assert summary.published["summary_reliability"].value == 0
    assert summary.not_judged == 1


@pytest.fixture
def endpoint():
    """A server at an address that answers with `replies` in turn, and keeps what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.received.append((self.path, self.headers["Authorization"], body))
            status, reply = server.replies.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.replies = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}/v1"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


GOOD_REPLY = (200, b'{"choices": [{"message": {"content": " Correct "}}]}')


def test_a_judge_at_an_endpoint_gets_instructions_request_and_key(endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    endpoint.replies.append(GOOD_REPLY)
    judge = HttpJudge("grader", endpoint.address, key_variable="JUDGE_KEY")
    assert judge("You grade.", "Is it?") == "Correct"
    path, authorization, body = endpoint.received[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert [message["content"] for message in body["messages"]] == ["You grade.", "Is it?"]
    assert (body["model"], body["temperature"]) == ("grader", 0)


def test_a_busy_endpoint_is_asked_again(endpoint):
    endpoint.replies += [(429, b""), GOOD_REPLY]
    judge = HttpJudge("grader", endpoint.address, key_variable=None, pause_s=0)
    assert judge("", "") == "Correct"


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([(401, b"")], "gave no opinion .HTTP 401"),
        ([(503, b"")] * 2, "gave no opinion .HTTP 503"),
        ([(200, b"<html>")], "no chat completion"),
    ],
)
def test_an_endpoint_without_an_opinion_is_an_error(endpoint, replies, message):
    endpoint.replies += replies
    judge = HttpJudge("grader", endpoint.address, key_variable=None, attempts=2, pause_s=0)
    with pytest.raises(JudgeError, match=message):
        judge("", "")


def test_a_judge_without_its_key_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(JudgeError, match="'JUDGE_KEY'"):
        HttpJudge("grader", "http://127.0.0.1:1", key_variable="JUDGE_KEY")


# ------------------------------------------------------------------------------ points and tracks


def mask(*boxes):
    """(100, 100), set within (left, top, right, bottom) of each box."""
    drawn = np.zeros((100, 100), bool)
    for left, top, right, bottom in boxes:
        drawn[top:bottom, left:right] = True
    return drawn


LEFT, RIGHT = mask((0, 0, 20, 100)), mask((80, 0, 100, 100))
IMAGE = {"image_size": (100, 100), "gt_points": [(10, 50), (90, 50)], "masks": [LEFT, RIGHT]}


@pytest.mark.parametrize(
    ("answer", "precision", "recall"),
    [
        ('<points coords="1 1 100 500 2 900 500">dog</points>', 1, 1),
        ('<points coords="1 1 100 500">dog</points>', 1, 0.5),
        ('<points coords="1 1 100 500 2 500 500">dog</points>', 0.5, 0.5),
        ("There are none.", 0, 0),
    ],
)
def test_points_count_that_are_on_their_object(answer, precision, recall):
    scores = metric_named("pointing")(answer, IMAGE, None)
    assert (scores["precision"].value, scores["recall"].value) == (precision, recall)


def test_no_point_is_right_where_there_is_nothing():
    nothing = {"image_size": (100, 100), "gt_points": [], "masks": []}
    assert metric_named("pointing")("There are none.", nothing, None)["f1"].value == 1


def test_points_in_a_video_count_at_the_times_of_masks():
    metadata = {
        "video_width": 100,
        "video_height": 100,
        "video_duration": 10.0,
        "gt_abs_triplets": [(1.0, 10, 50), (2.0, 90, 50)],
        "gt_abs_masks": [{1.0: LEFT}, {2.0: RIGHT}],
    }
    answer = '<points coords="1.0 1 100 500;2.5 2 900 500">dog</points>'
    scores = metric_named("video_pointing")(answer, metadata, None)
    assert (scores["precision"].value, scores["valid"].value) == (0.5, 1)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3", 3),
        ("3.", 3),
        ("Counting the dogs shows a total of 12.", 12),
        ('The total number of "dogs" is: 4', 4),
        ("many", None),
    ],
)
def test_counts_are_read(text, count):
    assert published_count(text) == careful_count(text) == count


def test_none_is_a_count_by_the_fixed_rule_only():
    assert published_count("There are none.") is None
    assert careful_count("There are none.") == 0


def test_counts_are_close_within_one_and_five_percent():
    scores = metric_named("video_counting")("43", {"count": 40, "subset": "animal"}, None)
    assert (scores["correct"].value, scores["close"].value) == (0, 1)
    assert scores["correct_25_up"].value == scores["acc_animal"].value == 0


TRACKS = {
    "image_size": (100, 100),
    "video_fps": 2,
    "points": [
        {"frame": frame, "points": {"a": {"point": (10, 50)}, "b": {"point": (90, 50)}}}
        for frame in (0, 2)
    ],
    "masks": {"a": {0: LEFT, 2: LEFT}, "b": {0: RIGHT, 2: RIGHT}},
}


def test_tracks_on_their_objects_are_perfect():
    answer = '<tracks coords="0.0 1 100 500 2 900 500;1.0 1 100 500 2 900 500">dog</tracks>'
    scores = metric_named("tracking")(answer, TRACKS, None)
    assert {name: score.value for name, score in scores.items()} == dict.fromkeys(
        ("precision", "recall", "f1", "HOTA", "DetA", "AssA"), 1.0
    )


def test_swapped_numbers_cost_association_alone():
    answer = '<tracks coords="0.0 1 100 500 2 900 500;1.0 2 100 500 1 900 500">dog</tracks>'
    scores = metric_named("tracking")(answer, TRACKS, None)
    assert (scores["f1"].value, scores["DetA"].value) == (1, 1)
    # Each of the two objects is told with each number once of three frames together.
    assert scores["AssA"].value == pytest.approx(1 / 3)


def test_a_frame_without_points_costs_recall():
    answer = '<tracks coords="0.0 1 100 500 2 900 500">dog</tracks>'
    assert metric_named("tracking")(answer, TRACKS, None)["recall"].value == 0.5


def test_nothing_to_track_and_nothing_told_is_perfect():
    assert frame_scores({}, {}, {}) == higher_order_accuracy({}, {}, {}) == (1, 1, 1)
