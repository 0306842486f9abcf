"""Checks a request before it enters the queue, so that none fails on the devices."""

from __future__ import annotations

import numpy as np

from stts_jax.budget import batch_arrays
from stts_jax.config import ModelConfig
from stts_jax.inference.engine.requests import MediaRow, Request, RequestError
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.questions import QuestionError, question_rows
from stts_jax.inference.sampling import Sampling


def check_request(request: Request, model: ModelConfig, settings: EngineSettings) -> np.ndarray:
    """Returns the question as a row of its size bucket.

    Args:
      request: what is asked.
      model: of the engine.
      settings: of the engine.

    Raises:
      RequestError: if it can't be answered.
    """
    most = settings.max_new_tokens
    if not 1 <= request.max_new_tokens <= most:
        raise RequestError(
            f"max_new_tokens is {request.max_new_tokens}; the engine takes 1 to {most}"
        )
    if len(request.question) > settings.question_tokens:
        raise RequestError(
            f"the text has {len(request.question)} tokens; the engine takes at most "
            f"{settings.question_tokens}"
        )
    _check_sampling(request.sampling)
    try:
        row = question_rows([request.question], model.llm)
    except QuestionError as error:
        raise RequestError(str(error)) from error
    if request.media is not None:
        check_media(request.media, model, settings)
    return row


def check_media(media: MediaRow, model: ModelConfig, settings: EngineSettings) -> None:
    """Raises a `RequestError` if the arrays aren't those of a row that this model can read."""
    budget, arrays = media.budget, media.batch.to_arrays()
    if media.model.llm != model.llm or media.model.vit != model.vit:
        raise RequestError("the media were made for another model; make them with this one's")
    if budget.tokens > settings.prefix_tokens:
        raise RequestError(
            f"images or video may have up to {budget.tokens} tokens after the drop; the engine "
            f"takes at most {settings.prefix_tokens}: take fewer frames, or drop more"
        )
    wanted = batch_arrays(budget, media.model, 1) | {
        "to_prune": ((1, budget.examples), np.dtype(np.int32))
    }
    for name, (shape, dtype) in wanted.items():
        array = arrays.get(name)
        if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
            found = "missing" if array is None else f"{array.dtype} of shape {np.shape(array)}"
            raise RequestError(f"array '{name}' of the media is {found}; make it {dtype} {shape}")
    patches = int((arrays["input_ids"] == model.llm.special_token("<im_patch>")).sum())
    pooled = int((arrays["token_pooling"] >= 0).any(-1).sum())
    if patches != pooled or not pooled:
        raise RequestError(
            f"the media have {patches} visual tokens in the text for {pooled} pooled ones; make "
            "them with `ExampleChain.before_questions`"
        )
    if arrays["token_pooling"].max() >= budget.frames * model.vit.patches:
        raise RequestError("the media pool patches beyond their last frame; number them from 0")
    _check_text(media, model)


def _check_text(media: MediaRow, model: ModelConfig) -> None:
    ids = media.batch.text.input_ids[0]
    length = int((ids >= 0).sum())
    last = model.llm.vocab_size + model.llm.extra_vocab_size
    if (ids[:length] < 0).any() or ids.max() >= last:
        raise RequestError(f"a token of the media is no id below {last}; padding comes at the end")
    dropped, pooled = media.batch.to_prune, (media.batch.token_pooling >= 0).any(-1).sum()
    if dropped is not None and not 0 <= dropped.clip(0).sum() <= pooled:
        raise RequestError(f"the media lose {dropped.sum()} of {pooled} visual tokens; drop fewer")
    left = pooled - (0 if dropped is None else dropped.clip(0).sum())
    if not media.model.prune.threshold and left > media.budget.visual:
        raise RequestError(
            f"{left} visual tokens stay, more than the {media.budget.visual} of the budget; "
            "take the budget of a smaller ratio"
        )


def _check_sampling(sampling: Sampling) -> None:
    if not 0 <= sampling.temperature <= 100:
        raise RequestError(f"temperature is {sampling.temperature}; choose 0 to 100")
    if sampling.top_k < 0:
        raise RequestError(f"top_k is {sampling.top_k}; choose 0 (all) or more")
    if not 0 < sampling.top_p <= 1:
        raise RequestError(f"top_p is {sampling.top_p}; choose above 0, up to 1")
