"""Folders of the benchmarks."""

import numpy as np
import pytest
from benchmark_fixtures import build_root

from stts_jax.data.datasets.base import dataset_class
from stts_jax.data.text.formatting.formatter import Formatter


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def examples(root):
    """`examples("name:split")`: all examples of a benchmark."""

    def read(name):
        name, _, split = name.partition(":")
        dataset = dataset_class(name)(root, split or None)
        return [dataset.get(index, np.random.RandomState(0)) for index in range(len(dataset))]

    return read


@pytest.fixture
def question(examples):
    """`question(name, index)`: annotation and metadata of an example, for what is asked."""

    def read(name, index=0):
        example = examples(name)[index]
        (annotation,) = example.annotations
        return annotation, example.metadata

    return read


def right_answer(example):
    """What the model is trained to say."""
    (annotation,) = example.annotations
    return Formatter().format(annotation, mode="eval", rng=np.random.RandomState(0)).messages[1]
