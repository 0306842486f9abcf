"""The trainings and evaluations of the demo, in three lengths."""

from __future__ import annotations

from dataclasses import dataclass

PICTURES = "pictures"
UNPRUNED = "unpruned"
TEXT_ONLY = "no visual tokens"


@dataclass(frozen=True)
class Method:
    """A pruning method: what is fine-tuned from the unpruned model, or how a model is evaluated.

    Attributes:
      name: in tables and folders.
      label: in plots.
      overrides: of the configuration, apart from the ratio.
    """

    name: str
    label: str
    overrides: tuple[str, ...]


STTS = Method("stts", "STTS", ("model.prune.method=scorer",))
RANDOM = Method("random", "random", ("model.prune.method=random",))
HEURISTIC = Method("heuristic", "heuristic", ("model.prune.method=heuristic",))
WITHOUT_LOSS = Method(
    "stts_without_temporal_loss",
    "STTS without temporal loss",
    ("model.prune.method=scorer", "model.prune.loss_coefficient=0.0"),
)


OVER_RATIOS = Method(
    "stts_over_ratios",
    "STTS over ratios",
    ("model.prune.method=scorer", "model.prune.train_ratios=[0.0, 0.3, 0.5, 0.7, 0.8]"),
)
TOME = Method("tome", "ToMe", ("model.prune.method=tome",))


def inference_only(method: Method) -> Method:
    """Returns a method without parameters as one that the unpruned model is evaluated with."""
    suffix = " (inference only)"
    return Method(method.name + suffix, method.label + suffix, method.overrides)


EVS = inference_only(Method("evs", "EVS", ("model.prune.method=evs",)))
AUTO = Method("stts_auto", "STTS auto", ())


@dataclass(frozen=True)
class Plan:
    """Sizes of a run of the demo.

    Attributes:
      videos: of the procedural set, all splits together.
      picture_steps: of the first training, on videos of one frame.
      steps: of the unpruned training, which goes on from there.
      fine_tune_steps: of each method's fine-tune.
      fine_tune_ratio: percent of the tokens dropped in the fine-tunes.
      ratios: percentages of the tokens dropped when the fine-tuned models are evaluated.
      questions: of the test split that are answered, for each ratio.
      methods: fine-tuned and compared.
      inference_only: the unpruned model is evaluated with, at each ratio above 0.
      auto: whether `OVER_RATIOS`, one of the methods, is evaluated with thresholds too: those that
        drop each ratio of the validation videos' tokens on average.
      clips: held-out clips that pictures are made of.
      claims: whether the results are held against what a full run shows.
    """

    videos: int = 4000
    picture_steps: int = 400
    steps: int = 550
    fine_tune_steps: int = 400
    fine_tune_ratio: int = 70
    ratios: tuple[int, ...] = (0, 30, 50, 70, 80)
    questions: int = 600
    methods: tuple[Method, ...] = (STTS, RANDOM)
    inference_only: tuple[Method, ...] = ()
    auto: bool = False
    clips: int = 3
    claims: bool = True

    @property
    def compared(self) -> tuple[Method, ...]:
        """Returns all that is evaluated at several ratios."""
        return (*self.methods, *((AUTO,) if self.auto else ()), *self.inference_only)


FULL = Plan()
LONG = Plan(
    methods=(STTS, RANDOM, HEURISTIC, TOME, WITHOUT_LOSS, OVER_RATIOS),
    inference_only=(inference_only(HEURISTIC), inference_only(TOME), EVS),
    auto=True,
)
SHORT = Plan(
    videos=120,
    picture_steps=10,
    steps=20,
    fine_tune_steps=8,
    fine_tune_ratio=50,
    ratios=(50,),
    questions=32,
    clips=1,
    claims=False,
)
