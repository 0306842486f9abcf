"""The datasets of the academic video mixture, entered in the registry on import.

Source: docs/reference.md#training-datasets.
"""

from stts_jax.data.datasets.academic import (
    actions,
    captions,
    evaluated,
    llava_video,
    mixed_questions,
    multiple_choice,
    segments,
    short_answer,
    subtitled,
    tvqa,
)

__all__ = [
    "actions",
    "captions",
    "evaluated",
    "llava_video",
    "mixed_questions",
    "multiple_choice",
    "segments",
    "short_answer",
    "subtitled",
    "tvqa",
]
