"""The tables at the end of a run of tests: worst errors, and what was only counted."""

from __future__ import annotations

import json

from conftest import WorstErrors


def recorded(test_file: str, *cases: str) -> WorstErrors:
    found = WorstErrors(test_file)
    for case in cases:
        found.only_counted(case, "a tie")
    return found


def test_the_worst_error_of_each_kind_is_shown_with_its_case():
    found = WorstErrors("test_a.py")
    for case, error in (("one", 1e-7), ("two", 3e-7), ("three", 2e-7)):
        found.add(case, "scores", error, 1e-6)
    assert [line.split() for line in found.lines()][1:] == [
        ["test_a.py", "scores", "3.00e-07", "1.00e-06", "two"]
    ]


def test_cases_that_were_only_counted_are_named_with_the_reason():
    found = recorded("test_a.py", "two", "one", "two")
    assert list(found.counted_lines()) == ["test_a.py  a tie: 2: one, two"]


def test_what_workers_send_is_joined():
    found = recorded("test_a.py", "one")
    for sent in (recorded("test_a.py", "two"), recorded("test_b.py", "three")):
        sent.add("case", "scores", 1e-7, 1e-6)
        found.merge(json.loads(json.dumps(sent.to_plain())))
    assert list(found.counted_lines()) == [
        "test_a.py  a tie: 2: one, two",
        "test_b.py  a tie: 1: three",
    ]
    assert set(found.largest) == {("test_a.py", "scores"), ("test_b.py", "scores")}
