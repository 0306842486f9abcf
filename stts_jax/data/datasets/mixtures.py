"""Mixtures of training datasets by name, and the rate at which each dataset is sampled.

A mixture has groups with fixed rates. Within a group a dataset counts with the root of its number
of examples, so that large ones do not drown small ones. Source: docs/reference.md#mixtures,
launch_scripts/sft.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stts_jax.data.datasets import academic  # noqa: F401  enters the datasets in the registry
from stts_jax.data.datasets.base import Dataset, DatasetError, dataset_class, dataset_names
from stts_jax.data.text.message_weight import MessageWeight


@dataclass(frozen=True)
class Share:
    """A dataset in a group.

    Attributes:
      dataset: name in the registry.
      size_factor: what counts as its size: None the number of its examples, below 1 that share of
        them, from 1 on that number whatever the dataset has; 0 takes one for the root itself.
      sampling_rate: times the root of the size.
      message_weight: how much its answers count in the loss, if other than those of the rest.
      p_high_res: probability of many crops of its images, if other than that of the rest.
    """

    dataset: str
    size_factor: float | None = None
    sampling_rate: float = 1.0
    message_weight: MessageWeight | None = None
    p_high_res: float | None = None

    def size(self, examples: int) -> float:
        """Returns the rate before it is normalised, given the number of examples."""
        if self.size_factor == 0:
            root = 1.0
        elif self.size_factor is None:
            root = math.sqrt(examples)
        elif self.size_factor < 1:
            root = math.sqrt(examples * self.size_factor)
        else:
            root = math.sqrt(self.size_factor)
        return root * self.sampling_rate


@dataclass(frozen=True)
class Group:
    """Datasets that share a rate; the rates of a mixture need not add up to 1."""

    name: str
    shares: tuple[Share, ...]
    rate: float


@dataclass(frozen=True)
class MixedDataset:
    """A dataset, how often it is sampled (all rates add up to 1), and its settings."""

    dataset: Dataset
    rate: float
    share: Share


def mixture_rates(groups: Sequence[Group], examples: Mapping[str, int]) -> dict[str, float]:
    """Returns the share of draws of each dataset.

    A dataset that is in several groups counts with the last of them.

    Args:
      groups: the mixture.
      examples: number of examples of each dataset.

    Returns:
      rates that add up to 1, by name, in the order of the names.
    """
    rates: dict[str, float] = {}
    for group in groups:
        sizes = {share.dataset: share.size(examples[share.dataset]) for share in group.shares}
        total = sum(sizes.values())
        rates |= {name: size / total * group.rate for name, size in sizes.items()}
    total = sum(rates.values())
    return {name: rates[name] / total for name in sorted(rates)}


def mixture(name: str) -> tuple[Group, ...]:
    """The groups of a mixture.

    Raises:
      DatasetError: if there is no such mixture.
    """
    if name not in MIXTURES:
        raise DatasetError(f"no mixture is called '{name}'; known are {', '.join(MIXTURES)}")
    return MIXTURES[name]


def available(groups: Sequence[Group], names: Collection[str]) -> tuple[Group, ...]:
    """Returns the groups with only the named datasets; groups without any are left out."""
    kept = [
        replace(group, shares=tuple(share for share in group.shares if share.dataset in names))
        for group in groups
    ]
    return tuple(group for group in kept if group.shares)


def load_mixture(
    name: str, root: Path, only: Sequence[str] | None = None, split: str = "train"
) -> tuple[MixedDataset, ...]:
    """Read the datasets of a mixture, in the order of their names.

    Args:
      name: of the mixture.
      root: folder that holds the folders of all datasets.
      only: take these datasets of it alone, at rates that keep their proportions in a group.
      split: of every dataset.

    Raises:
      DatasetError: if a dataset is in the mixture but not in this package, if one cannot be read,
        or if one of `only` is not in the mixture.
    """
    groups = mixture(name)
    if only is not None:
        in_mixture = {share.dataset for group in groups for share in group.shares}
        _refuse(sorted(set(only) - in_mixture), f"mixture '{name}' does not have", "correct it")
        groups = available(groups, only)
    shares = {share.dataset: share for group in groups for share in group.shares}
    _refuse(
        sorted(set(shares) - set(dataset_names())),
        f"mixture '{name}' needs datasets that are not in this package",
        f"take '{VIDEO_ACADEMIC_ONLY}', or name those to take in `only`",
    )
    datasets = {dataset: dataset_class(dataset)(root, split) for dataset in sorted(shares)}
    rates = mixture_rates(groups, {key: len(dataset) for key, dataset in datasets.items()})
    return tuple(MixedDataset(datasets[key], rates[key], shares[key]) for key in rates)


def _refuse(names: Sequence[str], what: str, remedy: str) -> None:
    if names:
        raise DatasetError(f"{what}: {', '.join(names)}; {remedy}")


def _shares(names: str, **settings: Any) -> tuple[Share, ...]:
    """Datasets between white space, "name:size" for those with a fixed size."""
    shares = []
    for word in names.split():
        dataset, _, size = word.partition(":")
        shares.append(Share(dataset, size_factor=float(size) if size else None, **settings))
    return tuple(shares)


VIDEO_ACADEMIC = _shares(
    """
    tgif:60000 tvqa_with_sub:60000 paxion:60000 llava_video_mc_academic llava_video_oe_academic
    perception_test nextqa_mc news_video_qa_filtered how2qa sutd_trafficqa social_iq2 sportsqa_oe
    cinepile_with_sub clevrer funqa star intent_qa video_localized_narratives road_text_vqa
    countix_oe camerabench_qa motionbench_train
    moments_in_time_qa:60000 kinetics_qa:60000 charades_sta_all_qa coin_all_qa youcook2_all_qa
    activitynet_all_qa ego4d_all epic_kitchens_qa video_localized_narratives_caption qv_highlights
    vixmo_syn_video_capqa_v2 vixmo_syn_video_capqa_with_sub_v2
    """
)

IMAGE_ACADEMIC = _shares(
    """
    coco_2014_vqa_multi text_vqa okvqa chart_qa_weighted doc_qa info_qa
    ai2_diagram_v2_mix_transparent a_okvqa_mc a_okvqa_da science_qa_img tabwmp_da st_qa tally_qa
    mantis_instruct_llava_665k_multi_multi_only mantis_instruct_nlvr2_multi_only
    mantis_instruct_spot-the-diff_multi_only
    dv_qa:10000 figure_qa:10000 plot_qa:20000
    cosyn_chart_exp cosyn_chemical_exp cosyn_diagram_exp cosyn_document cosyn_math_exp
    cosyn_music_exp cosyn_table_exp
    cosyn_multidoc_chart_exp cosyn_multidoc_chemical_exp cosyn_multidoc_diagram_exp
    cosyn_multidoc_doc_exp cosyn_multidoc_music_exp cosyn_multidoc_table_exp
    """
)

# Points are many tokens that say little each, and so are long captions.
POINT_WEIGHT = MessageWeight(constant=0.2, root_subsegments=False, root_length=False)
CAPTION_WEIGHT = MessageWeight(constant=0.1, root_subsegments=False, root_length=False)

# Parts of the tracking data, with the rate of each by which its datasets' rates are multiplied.
TRACKING_PARTS = (
    (
        0.4,
        """mevis_track ref_yt_vos_track lv_vis_track vicas_track:30000 revos_track
        molmo2_video_track""",
    ),
    (0.05, "burst_track ref_davis17_track yt_vis_track moca_track"),
    (0.2, "mevis_ground lv_vis_ground vicas_ground:30000 revos_ground molmo2_video_track_ground"),
    (0.01, "burst_ground moca_ground"),
    (
        0.15,
        """mevis_single_point_track lv_vis_single_point_track vicas_single_point_track:30000
        revos_single_point_track molmo2_video_single_point_track""",
    ),
    (
        0.2,
        """webuav_single_point_track got10k_single_point_track vasttrack_single_point_track
        trackingnet_single_point_track""",
    ),
    (
        0.1,
        """burst_single_point_track lvosv1_single_point_track lvosv2_single_point_track
        lasot_single_point_track uwcot_single_point_track webuot_single_point_track
        latot_single_point_track tnl2k_single_point_track tnllt_single_point_track""",
    ),
)
TRACKING = tuple(
    share
    for rate, names in TRACKING_PARTS
    for share in _shares(
        names,
        sampling_rate=rate / sum(rate for rate, _ in TRACKING_PARTS),
        message_weight=POINT_WEIGHT,
    )
)
VIDEO_POINTING = tuple(
    Share(dataset, size_factor=1, sampling_rate=rate, message_weight=POINT_WEIGHT)
    for dataset, rate in (
        ("vixmo_points_minmax_0_5", 0.4),
        ("vixmo_points_minmax_6_25", 0.3),
        ("vixmo_points_minmax_26_60", 0.1),
        ("academic_points_clip_63s_2fps", 0.2),
    )
)
IMAGE_POINTING = _shares(
    """pixmo_multi_points:200000 pixmo_points_train pixmo_count_train pixmo_points_high_freq_train
    cosyn_point""",
    message_weight=POINT_WEIGHT,
    p_high_res=0.3,
)
DEMO = (
    *_shares(
        """pixmo_ask_model_anything pixmo_cap:100000 pixmo_cap_qa_as_user_qa
        pixmo_multi_image_qa_multi_only_max5 molmo2_human_qa"""
    ),
    Share("vixmo3_top_level_captions_min_3", sampling_rate=1.5, message_weight=CAPTION_WEIGHT),
)

VIDEO_ACADEMIC_ONLY = "all-v5-video-academic-only"
# The mixture that the STTS models were trained on has a name, but no definition, in what is
# published; one group of all academic video datasets is our reading of the name.
MIXTURES: Mapping[str, tuple[Group, ...]] = {
    VIDEO_ACADEMIC_ONLY: (Group("video_academic", VIDEO_ACADEMIC, 1.0),),
    "molmo2": (
        Group("demo", DEMO, 0.15),
        Group("video_academic", VIDEO_ACADEMIC, 0.2),
        Group("image_academic", IMAGE_ACADEMIC, 0.25),
        Group("tracking", TRACKING, 0.15),
        Group("video_pointing", VIDEO_POINTING, 0.15),
        Group("image_pointing", IMAGE_POINTING, 0.1),
        Group("nlp", _shares("tulu4"), 0.1 - 0.0005),
        Group("hardcodes", _shares("molmo2_hardcodes"), 0.0005),
    ),
}
