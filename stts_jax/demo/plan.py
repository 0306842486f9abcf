"""The trainings and evaluations of the demo, in four lengths."""

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
      overrides: of the configuration, apart from the ratio; `{parts}` stands for the folder of the
        demo's models.
    """

    name: str
    label: str
    overrides: tuple[str, ...]


# All of them train over these ratios, so that methods differ in nothing else.
TRAIN_RATIOS = (0.0, 0.3, 0.5, 0.7, 0.8)
_OVER_RATIOS = f"model.prune.train_ratios={list(TRAIN_RATIOS)}"

SCORER = "model.prune.method=scorer"

STTS = Method("stts", "STTS, one checkpoint", (SCORER, _OVER_RATIOS))
RANDOM = Method("random", "random", ("model.prune.method=random", _OVER_RATIOS))
HEURISTIC = Method("heuristic", "heuristic", ("model.prune.method=heuristic", _OVER_RATIOS))
TOME = Method("tome", "ToMe", ("model.prune.method=tome", _OVER_RATIOS))
WITHOUT_LOSS = Method(
    "stts_without_temporal_loss",
    "STTS without temporal loss",
    (SCORER, _OVER_RATIOS, "model.prune.loss_coefficient=0.0"),
)


def specialist(k: int) -> Method:
    """Returns STTS as it is trained at one ratio, of k %."""
    return Method(f"stts_at_{k}", f"STTS trained at {k} %", (SCORER,))


def inference_only(method: Method) -> Method:
    """Returns a method without parameters as one that the unpruned model is evaluated with."""
    suffix = " (inference only)"
    return Method(method.name + suffix, method.label + suffix, method.overrides)


EVS = inference_only(Method("evs", "EVS", ("model.prune.method=evs",)))
AUTO = Method("stts_auto", "STTS, a threshold for all videos", ())


@dataclass(frozen=True)
class Plan:
    """Sizes of a run of the demo.

    Attributes:
      videos: of the procedural set, all splits together.
      picture_steps: of the first training, on videos of one frame.
      steps: of the unpruned training, which goes on from there.
      fine_tune_steps: of each method's fine-tune.
      fixed_ratio: percent of the tokens dropped in the fine-tune at one ratio, and in pictures.
      ratios: percentages of the tokens dropped when the fine-tuned models are evaluated.
      questions: of the test split that are answered, for each ratio.
      methods: fine-tuned over ratios and compared.
      specialists: further ratios in percent that STTS is fine-tuned at, and evaluated only there.
      inference_only: the unpruned model is evaluated with, at each ratio above 0.
      auto: percentages of the validation videos' tokens that thresholds of STTS drop.
      clips: held-out clips that pictures are made of.
      claims: whether the results are held against what a full run shows.
    """

    videos: int = 4000
    picture_steps: int = 400
    steps: int = 700
    fine_tune_steps: int = 400
    fixed_ratio: int = 70
    ratios: tuple[int, ...] = (0, 30, 50, 70, 80)
    questions: int = 2400
    methods: tuple[Method, ...] = (STTS, RANDOM)
    specialists: tuple[int, ...] = ()
    inference_only: tuple[Method, ...] = ()
    auto: tuple[int, ...] = (70, 80)
    clips: int = 3
    claims: bool = True

    @property
    def compared(self) -> tuple[Method, ...]:
        """Returns all that is evaluated at several ratios."""
        auto = (AUTO,) if self.auto else ()
        return (*self.methods, specialist(self.fixed_ratio), *auto, *self.inference_only)


FULL = Plan()
LONG = Plan(
    methods=(STTS, RANDOM, HEURISTIC, TOME, WITHOUT_LOSS),
    inference_only=(inference_only(HEURISTIC), inference_only(TOME), EVS),
    auto=(30, 50, 70, 80),
)
SEEDS = Plan(specialists=(0, 30, 50, 80))
SHORT = Plan(
    # Each ratio is compiled, which takes longer than these trainings.
    methods=(Method(STTS.name, STTS.label, (SCORER, "model.prune.train_ratios=[0.0, 0.5]")),),
    videos=120,
    picture_steps=10,
    steps=20,
    fine_tune_steps=8,
    fixed_ratio=50,
    ratios=(50,),
    auto=(50,),
    questions=32,
    clips=1,
    claims=False,
)
