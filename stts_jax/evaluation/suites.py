"""Tasks to evaluate, and named groups of tasks.

Questions are worded by the datasets; answers are generated greedily until the end token or
`max_new_tokens`. Source: docs/reference.md#benchmarks and #metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stts_jax.data.datasets import academic, benchmarks  # noqa: F401  (enter the datasets by name)
from stts_jax.data.datasets.base import dataset_class


class SuiteError(ValueError):
    """A mode, task or split that is not known; the message lists those that are."""


@dataclass(frozen=True)
class Task:
    """A dataset to answer and how its answers are scored.

    Attributes:
      name: of the task, the same as the dataset's unless a dataset is used twice.
      dataset: in the registry of datasets.
      split: of the dataset.
      metric: in the registry of metrics.
      max_new_tokens: where answers are cut.
      max_frames: bound on the frames of a video; None for the model's own setting.
    """

    name: str
    dataset: str
    split: str
    metric: str
    max_new_tokens: int = 12
    max_frames: int | None = None

    @property
    def label(self) -> str:
        """Name and split, what results are kept under: two splits of a task don't collide."""
        return f"{self.name}:{self.split}"


def _task(
    name: str, metric: str, max_new_tokens: int = 12, split: str = "validation"
) -> tuple[str, Task]:
    return name, Task(name, name, split, metric, max_new_tokens)


TASKS: dict[str, Task] = dict(
    (
        _task("mvbench", "em_start", 32),
        _task("tomato", "tomato", 32, split="test"),
        _task("motionbench", "em_start"),
        _task("temp_compass_internal", "temp_compass", 192),
        _task("perception_test", "perception_test_mc"),
        _task("ego_schema", "ego_schema_mc", 32),
        _task("nextqa_mc", "nextqa_mc", split="test"),
        _task("video_mme", "video_mme"),
        _task("video_mme_w_subtitle", "video_mme"),
        _task("long_video_bench_no_subtitle", "long_video_bench"),
        _task("long_video_bench_w_subtitle", "long_video_bench"),
        _task("mlvu_mc", "em_start"),
        # The reference's default split for it does not exist (docs/reference.md#what-is-odd).
        _task("lvbench", "lvbench", split="test"),
        _task("video_eval_pro_mc", "em_start", 32, split="test"),
        _task("molmo2_video_count_eval", "video_counting", 2048, split="val"),
        _task("molmo2_video_point_eval", "video_pointing", 2048, split="val"),
        # In no group: these need a judge for all or some of their questions.
        _task("temp_compass", "temp_compass_all", 192),
        _task("mlvu_gen", "mlvu_gen", 192),
        _task("qv_highlights", "qv_highlights", 40),
    )
)

# What the reference calls them in its suites.
SECOND_NAMES = {
    "vixmo_points_count_clip_63s": "molmo2_video_count_eval",
    "vixmo_points_point_eval": "molmo2_video_point_eval",
}

SHORT_VIDEO = (
    "mvbench",
    "tomato",
    "motionbench",
    "temp_compass_internal",
    "perception_test",
    "ego_schema",
    "nextqa_mc",
)
# LVBench has no subtitles, but the reference groups it so.
VIDEO_SUBTITLE = ("video_mme_w_subtitle", "long_video_bench_w_subtitle", "lvbench")
# The reference has a captioning set here as well (vixmo_caps_eval2), which is not published.
LONG_VIDEO_NO_SUBTITLE = (
    "mlvu_mc",
    "video_mme",
    "long_video_bench_no_subtitle",
    "video_eval_pro_mc",
)
# The reference lists tracking in MeViS here as well, by a name that it has no dataset for.
VIDEO_POINTING = ("molmo2_video_count_eval", "molmo2_video_point_eval")

GROUPS: dict[str, tuple[str, ...]] = {
    "short_video": SHORT_VIDEO,
    "long_video": VIDEO_SUBTITLE + LONG_VIDEO_NO_SUBTITLE,
    "video": SHORT_VIDEO + VIDEO_SUBTITLE + LONG_VIDEO_NO_SUBTITLE,
    "video_subtitle": VIDEO_SUBTITLE,
    "video_no_subtitle": SHORT_VIDEO + LONG_VIDEO_NO_SUBTITLE,
    "video_pointing": VIDEO_POINTING,
    # What the paper's tables average: all of "video" but EgoSchema.
    "paper": (
        *(name for name in SHORT_VIDEO if name != "ego_schema"),
        *VIDEO_SUBTITLE,
        *LONG_VIDEO_NO_SUBTITLE,
    ),
}
# Groups of the reference whose datasets are not here, and what scores them once they are.
ABSENT_GROUPS: dict[str, str] = {
    "tracking": "metric 'tracking'",
    "image_pointing": "metric 'pointing'",
    "single_image": "metrics such as 'vqa_score', 'ansl' and 'mc'",
    "single_image_test": "metrics such as 'vqa_score', 'ansl' and 'mc'",
    "multi_image": "metric 'muir_bench_mc'",
    "test_video": "nothing here, as the answers of these splits are not published",
}


def tasks_of(names: str | Iterable[str]) -> list[Task]:
    """Returns the tasks of names of groups and tasks, each once, in order.

    Args:
      names: groups, tasks, or tasks with a split ("lvbench:test"); a string may hold several,
        with commas between them.

    Raises:
      SuiteError: if a name is not known.
    """
    parts = names.split(",") if isinstance(names, str) else list(names)
    found: dict[str, Task] = {}
    for name in (part.strip() for part in parts):
        for task in _tasks_of_name(name):
            found.setdefault(task.label, task)
    return list(found.values())


def _tasks_of_name(name: str) -> list[Task]:
    if name in GROUPS:
        return [TASKS[task] for task in GROUPS[name]]
    if name in ABSENT_GROUPS:
        raise SuiteError(
            f"the datasets of mode '{name}' are not here ({ABSENT_GROUPS[name]} would score "
            f"them); choose a mode of {', '.join(GROUPS)}"
        )
    task, _, split = name.partition(":")
    task = SECOND_NAMES.get(task, task)
    if task not in TASKS:
        raise SuiteError(
            f"no mode or task is called '{name}'; modes are {', '.join(GROUPS)}; tasks are "
            f"{', '.join(TASKS)}"
        )
    return [_with_split(TASKS[task], split) if split else TASKS[task]]


def _with_split(task: Task, split: str) -> Task:
    splits = dataset_class(task.dataset).splits
    if split not in splits:
        raise SuiteError(
            f"task '{task.name}' has no split '{split}'; its splits are {', '.join(splits)}"
        )
    return replace(task, split=split)
