"""Folders of the academic datasets."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from dataset_fixtures import build_root

from stts_jax.data.datasets.base import Dataset, SourceExample, dataset_class


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
