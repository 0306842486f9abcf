"""Many videos and questions, answered in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stts_jax.api.errors import UsageError
from stts_jax.api.media import is_many, require_videos
from stts_jax.config import Config
from stts_jax.data.evaluation_batches import batch_of, budget_alone
from stts_jax.data.example_chain import ExampleChain
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.programs import Programs
from stts_jax.evaluation.runner import answer_batch, rows_of_batch
from stts_jax.evaluation.single import answer_of, prepare
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of
from stts_jax.size_buckets import at_bucket


def paired(videos: Any, questions: Any) -> list[tuple[Any, Any]]:
    """Returns each video with its question, where one of them may stand for all.

    Raises:
      UsageError: if there is another number of videos than of questions.
    """
    if is_many(videos):
        require_videos(videos)
    count = len(videos) if is_many(videos) else len(questions)
    each = [x if is_many(x) else [x] * count for x in (videos, questions)]
    if len(each[0]) != len(each[1]):
        raise UsageError(
            f"there are {len(each[0])} videos and {len(each[1])} questions; give as many of both, "
            "or a single one for all"
        )
    return list(zip(*each, strict=True))


def ask_all(
    model: VideoLanguageModel,
    config: Config,
    asked: Sequence[Asked],
    chain: ExampleChain,
    programs: Programs,
) -> list[str]:
    """Returns the answer to each question; those without options share batches.

    Args:
      model: as trained.
      config: of the run.
      asked: the questions.
      chain: of the configuration.
      programs: says what is compiled.
    """
    if any(each.options for each in asked):
        return [answer_of(model, config, prepare(config, each, chain=chain)) for each in asked]
    model = reconfigure(model, at_bucket(config.model))
    # Powers of two, so that other numbers of questions compile to the same shapes.
    rows = rows_of_batch(config, 1 << (len(asked) - 1).bit_length(), mesh_of(model))
    answers: list[str] = []
    budget = None
    for start in range(0, len(asked), rows):
        chunk = asked[start : start + rows]
        prompts = [chain.prompt(each.example(config), 0).arrays for each in chunk]
        budget = budget or budget_alone(prompts[0], config, chain.model)
        batch, budget = batch_of(prompts, budget, chain.model, rows)
        programs.expect_rows("answering", model, config, budget, rows)
        tokens, _ = answer_batch(model, config, batch, budget, chain.tokenizer.eos_id)
        answers += [chain.tokenizer.decode(row.tolist()) for row in tokens[: len(chunk)]]
    return answers
