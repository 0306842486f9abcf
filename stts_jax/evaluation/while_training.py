"""The evaluation that a run makes while it trains."""

from __future__ import annotations

from pathlib import Path

from stts_jax.config import Config, ConfigError
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.questions import question_of
from stts_jax.evaluation.metrics import BY_TEXT, is_free_text
from stts_jax.evaluation.runner import evaluate_questions, read_questions
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.processes import first_then_others, notice
from stts_jax.terminal import doing
from stts_jax.training.loop import Evaluate


def evaluation(config: Config, data_dir: Path) -> Evaluate:
    """Returns the loop's evaluation: it scores the model on a part of the validation set.

    The questions are read here, so that errors in them are raised before the run starts.
    """
    limit = config.train.evaluate_examples
    try:
        with doing(f"reading the questions of '{config.data.validation}'", notice):
            questions = first_then_others(
                lambda: read_questions(config, "validation", data_dir, limit)
            )
    except (ConfigError, DatasetError) as error:
        raise ConfigError(
            f"data.validation is '{config.data.validation}', which cannot be evaluated on: {error}"
            ", or set train.evaluate_every=0 to train without evaluating"
        ) from error

    free = sum(is_free_text(question_of(question)) for question in questions)
    if free:
        best = "train.keep_best goes by it" if free == len(questions) else "not in the accuracy"
        notice(
            f"{free} of {len(questions)} validation answers are captions or long; they are scored "
            f"by {BY_TEXT}, and {best}"
        )

    def evaluate(model: VideoLanguageModel, step: int) -> dict[str, float]:
        return evaluate_questions(model, config, questions).scores()

    return evaluate
