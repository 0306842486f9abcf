"""A checkpoint as a model of lmms-eval, for its tasks: `lmms-eval --model stts_jax`.

lmms-eval brings torch and pins old versions of PyAV, so it lives in an environment of its own and
this module, which needs it, is imported by nothing here. Its prompts are lmms-eval's, so scores
differ from those of `suites`, which are worded as the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stts_jax.config import replace
from stts_jax.evaluation.single import ask
from stts_jax.training.checkpointing.load import load_to_answer

try:
    from lmms_eval.api.model import lmms
    from lmms_eval.api.registry import register_model
except ImportError as error:
    raise ImportError(
        "lmms-eval is not installed, and only this adapter needs it; install it beside stts_jax "
        "with 'pip install lmms-eval' in an environment of its own"
    ) from error

NAME = "stts_jax"


class UnsupportedRequestError(ValueError):
    """Raised for requests of lmms-eval that this model can't answer; one sentence."""


@register_model(NAME)
class SttsJax(lmms):
    """Answers questions about one video each, greedily, one at a time."""

    is_simple = True

    def __init__(
        self, pretrained: str, frames: float = 1.0, batch_size: int | str = 1, **others: Any
    ) -> None:
        """Load a checkpoint.

        Args:
          pretrained: folder of a training run or of a conversion.
          frames: factor on the frames that the model was trained with.
          batch_size: lmms-eval hands it over; only 1 is possible.
          others: what else lmms-eval hands over to every model (device, ...), without effect.
        """
        super().__init__()
        if str(batch_size) != "1":
            raise UnsupportedRequestError(
                f"batch_size is {batch_size}, but {NAME} answers one question at a time; use 1"
            )
        self.frames = float(frames)
        self.stts_model, self.stts_config = load_to_answer(Path(pretrained))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer for each request.

        Args:
          requests: whose `args` are question, generation settings, function from a document to
            its videos, number of the document, task and split.

        Raises:
          UnsupportedRequestError: if a question is not about exactly one video file.
        """
        answers = []
        for request in requests:
            question, settings, visuals_of, number, task, split = request.args
            visuals = visuals_of(self.task_dict[task][split][number])
            answer = self._answer(question, _video(visuals, task, number), settings)
            self.cache_hook.add_partial("generate_until", (question, settings), answer)
            answers.append(answer)
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not possible: a conversation has one turn."""
        raise UnsupportedRequestError(f"{NAME} answers one turn; choose a task of a single round")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not possible: only generated answers are scored."""
        raise UnsupportedRequestError(
            f"{NAME} gives no likelihoods; choose a task of the output type generate_until"
        )

    def _answer(self, question: str, video: Path, settings: Mapping[str, Any]) -> str:
        config = self.stts_config
        if "max_new_tokens" in settings:
            config = replace(config, {"eval.max_new_tokens": settings["max_new_tokens"]})
        answer = ask(self.stts_model, config, video, question, frames_scale=self.frames)
        until = settings.get("until") or ()
        for stop in (until,) if isinstance(until, str) else until:
            answer = answer.split(stop)[0] if stop else answer
        return answer


def manifest() -> Any:
    """Returns the models that lmms-eval finds by the entry point group `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path=f"{__name__}.{SttsJax.__name__}")


def _video(visuals: Sequence[Any], task: str, number: int) -> Path:
    if len(visuals) == 1 and isinstance(visuals[0], str | Path):
        return Path(visuals[0])
    kinds = ", ".join(type(visual).__name__ for visual in visuals) or "nothing"
    raise UnsupportedRequestError(
        f"document {number} of task '{task}' shows {kinds}, but {NAME} takes one video file; "
        "choose a video task"
    )
