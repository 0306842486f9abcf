"""Examples to format."""

import numpy as np

from stts_jax.data.text.formatting import Formatter, FormatterSettings

SFT = FormatterSettings()
UNTAGGED = FormatterSettings(message_format="none", system_prompt="none")
SEEDS = range(200)
SHORT = {"style": "video_short_answer", "question": "Who?", "answer": "Ann"}


def formatted(example, settings=SFT, mode="train", seed=0):
    return Formatter(settings).format(example, mode=mode, rng=np.random.RandomState(seed))


def images_example(count, style):
    """Images that hold one dog each, save the second, which holds a cat."""
    kinds = ["dog" if index != 1 else "cat" for index in range(count)]
    return {
        "style": style,
        "point_scale": 100,
        "normalized_labels": kinds,
        "labels": [f"{kind}s" for kind in kinds],
        "points": [[{"x": 10 * index, "y": 50}] for index in range(count)],
    }


# Tracks


def track_example(style, **fields):
    """A dog (0) that moves right, and a cat (7) that is hidden at first and further left."""
    frames = [
        {
            "frame": 3 * index,
            "time": 0.5 * index,
            "points": {
                0: {"point": [50 + index, 50]},
                7: {"point": [10 + index, 20], "occluded": index == 0},
            },
        }
        for index in range(5)
    ]
    return {
        "style": style,
        "label": "pets",
        "point_scale": 100,
        "sampling_fps": 1,
        "points": frames,
        "video": {"timestamps": np.arange(0, 2.1, 0.5)},
        **fields,
    }
