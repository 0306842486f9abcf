"""Mixtures: their groups, and the rates that follow from the sizes of the datasets."""

from __future__ import annotations

import json
import math

import pytest
from dataset_fixtures import build_root
from goldens_folder import goldens_data_dir

from stts_jax.data.datasets.base import DatasetError, dataset_names
from stts_jax.data.datasets.mixtures import (
    MIXTURES,
    VIDEO_ACADEMIC_ONLY,
    Group,
    Share,
    available,
    load_mixture,
    mixture,
    mixture_rates,
)

# A rate is a quotient of sums of roots: a few roundings of double precision.
RATE_TOLERANCE = 1e-15  # measured 1.1e-16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("video_datasets"))


def rates_of(*shares: Share, **examples: int) -> dict[str, float]:
    return mixture_rates([Group("all", shares, 1.0)], examples)


def test_a_dataset_counts_with_the_root_of_its_examples():
    assert rates_of(Share("a"), Share("b"), a=900, b=100) == pytest.approx({"a": 0.75, "b": 0.25})


def test_a_size_of_one_or_more_counts_whatever_the_dataset_has():
    assert rates_of(Share("a", 900), Share("b"), a=4, b=100)["a"] == pytest.approx(0.75)


def test_a_size_below_one_is_a_share_of_the_examples():
    assert rates_of(Share("a", 0.25), Share("b"), a=400, b=100)["a"] == pytest.approx(0.5)


def test_a_size_of_zero_counts_as_one():
    assert rates_of(Share("a", 0), Share("b"), a=400, b=9)["a"] == pytest.approx(0.25)


def test_a_sampling_rate_multiplies_the_root():
    assert rates_of(Share("a", sampling_rate=3.0), Share("b"), a=9, b=9)["a"] == pytest.approx(0.75)


def test_groups_have_their_rates_whatever_is_in_them():
    groups = [Group("x", (Share("a"), Share("b")), 0.6), Group("y", (Share("c"),), 0.2)]
    rates = mixture_rates(groups, {"a": 5, "b": 7, "c": 1})
    assert rates["a"] + rates["b"] == pytest.approx(0.75)
    assert rates["c"] == pytest.approx(0.25)


def test_rates_come_in_the_order_of_the_names():
    assert list(rates_of(Share("b"), Share("a"), a=1, b=1)) == ["a", "b"]


def test_a_dataset_in_two_groups_counts_with_the_last():
    groups = [Group("x", (Share("a"), Share("b")), 0.5), Group("y", (Share("a"),), 0.25)]
    rates = mixture_rates(groups, {"a": 4, "b": 4})
    assert rates == pytest.approx({"a": 0.5, "b": 0.5})


def test_the_academic_mixture_is_one_group_of_datasets_that_are_all_here():
    (group,) = mixture(VIDEO_ACADEMIC_ONLY)
    assert {share.dataset for share in group.shares} <= set(dataset_names())
    assert group.rate == 1.0


def test_large_academic_datasets_count_as_sixty_thousand():
    (group,) = mixture(VIDEO_ACADEMIC_ONLY)
    capped = {share.dataset: share.size_factor for share in group.shares if share.size_factor}
    names = ["kinetics_qa", "moments_in_time_qa", "paxion", "tgif", "tvqa_with_sub"]
    assert capped == dict.fromkeys(names, 60000)


@pytest.mark.parametrize("name", MIXTURES)
def test_no_dataset_is_twice_in_a_mixture(name):
    names = [share.dataset for group in mixture(name) for share in group.shares]
    assert len(names) == len(set(names))


def test_the_groups_of_molmo2_have_the_published_rates_which_are_more_than_one_together():
    assert {group.name: round(group.rate, 6) for group in mixture("molmo2")} == {
        "demo": 0.15,
        "video_academic": 0.2,
        "image_academic": 0.25,
        "tracking": 0.15,
        "video_pointing": 0.15,
        "image_pointing": 0.1,
        "nlp": 0.0995,
        "hardcodes": 0.0005,
    }


def test_a_mixture_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(DatasetError, match=f"'molmo3'; known are {VIDEO_ACADEMIC_ONLY}, molmo2"):
        mixture("molmo3")


def test_groups_without_an_available_dataset_are_left_out():
    groups = available(mixture("molmo2"), ["tgif", "star"])
    assert [(g.name, [s.dataset for s in g.shares]) for g in groups] == [
        ("video_academic", ["tgif", "star"])
    ]


class TestLoading:
    def test_reads_every_dataset_with_rates_that_add_up_to_one(self, root):
        mixed = load_mixture(VIDEO_ACADEMIC_ONLY, root)
        (group,) = mixture(VIDEO_ACADEMIC_ONLY)
        assert [m.share.dataset for m in mixed] == sorted(s.dataset for s in group.shares)
        assert math.fsum(m.rate for m in mixed) == pytest.approx(1.0)

    def test_gives_rates_by_the_examples_that_were_read(self, root):
        star, tgif = load_mixture(VIDEO_ACADEMIC_ONLY, root, only=["tgif", "star"])
        assert star.rate / tgif.rate == pytest.approx(math.sqrt(len(star.dataset) / 60000))

    def test_takes_of_molmo2_what_is_named(self, root):
        (mixed,) = load_mixture("molmo2", root, only=["clevrer"])
        assert (mixed.dataset.name, mixed.rate) == ("clevrer", 1.0)

    def test_names_the_datasets_that_are_not_in_this_package(self, root):
        with pytest.raises(DatasetError, match=r"'molmo2' needs.*pixmo_cap.*tulu4.*`only`"):
            load_mixture("molmo2", root)

    def test_does_not_name_those_that_are(self, root):
        with pytest.raises(DatasetError) as error:
            load_mixture("molmo2", root)
        assert "clevrer" not in str(error.value)

    def test_names_what_is_asked_for_but_not_in_the_mixture(self, root):
        with pytest.raises(DatasetError, match="does not have: lvbench; correct it"):
            load_mixture(VIDEO_ACADEMIC_ONLY, root, only=["lvbench", "star"])

    def test_a_dataset_that_cannot_be_read_stops_the_mixture(self, tmp_path):
        with pytest.raises(DatasetError, match="dataset 'clevrer'"):
            load_mixture("molmo2", tmp_path, only=["clevrer"])


# The groups behind the recorded rates. The files do not hold them; they follow from the rates and
# sizes there, which determine how a rate depends on every size.
RECORDED_MIXTURES = {
    "kwargs": (
        Group("x", (Share("d_image", 0.5, sampling_rate=3.0), Share("d_image_tree")), 0.5),
        Group("y", (Share("d_text", 100), Share("d_video")), 0.5),
    ),
    "mixture": (
        Group("x", (Share("d_text", 0, sampling_rate=1), Share("d_video", 0, sampling_rate=3)), 1),
    ),
    "root_size": (
        Group("x", (Share("d_text"), Share("d_image", 4)), 0.7),
        Group("y", (Share("d_image_tree", 100), Share("d_video", 0.5)), 0.3),
    ),
    "kwargs_sizes": (
        Group(
            "x",
            (
                Share("d_text"),
                Share("d_video", 0),
                Share("d_image_tree", 0.25),
                Share("d_image", 10000),
            ),
            1.0,
        ),
    ),
}


def recorded_rates() -> list:
    cases = []
    for path in sorted(goldens_data_dir().glob("dataloader*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        for name, case in recorded["rates"].items():
            cases.append(pytest.param(name, case, recorded["sizes"], id=f"{path.stem}-{name}"))
    return cases


def test_data_parity_mixture_rates_are_recorded():
    assert recorded_rates(), f"'{goldens_data_dir()}' has no dataloader.json"


@pytest.mark.parametrize(("name", "case", "sizes"), recorded_rates())
def test_data_parity_mixture_rates(name, case, sizes, report_error):
    rates = mixture_rates(RECORDED_MIXTURES[name], sizes)
    assert list(rates) == case["order"]
    worst = max(
        abs(ours - theirs) for ours, theirs in zip(rates.values(), case["rates"], strict=True)
    )
    report_error("mixture rate", worst, RATE_TOLERANCE)
    assert worst <= RATE_TOLERANCE
