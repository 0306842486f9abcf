"""Trains and evaluates the models of the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stts_jax.calibrate import scores_of_videos
from stts_jax.config import Config, load_config, override, replace
from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.demo.finished import FinishedParts
from stts_jax.demo.plan import AUTO, PICTURES, TEXT_ONLY, UNPRUNED, Method, Plan
from stts_jax.evaluation.runner import evaluate_split
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure, vision_encoder
from stts_jax.pruning.adaptive import calibrated_threshold
from stts_jax.training.checkpointing.load import load_model
from stts_jax.training.run import train

NO_PRUNING = ("model.prune.method=none", "model.prune.topk=0.0")
CALIBRATED_ON = 2400  # questions of the validation split, at most
# A fine-tune starts from a trained model, so its rates are lower, and half of the rows do for a
# step; the scorer is new. The ViT is a tenth as fast as the scorer (a twentieth in the paper): with
# a fast one, which the temporal loss reaches too, one of two unpruned models lost what moves.
FINE_TUNE = (
    "data.batch_rows=8",
    *(f"train.{group}.learning_rate=1e-3" for group in ("llm", "connector", "scorer")),
    "train.vit.learning_rate=1e-4",
    *(f"train.{group}.warmup=10" for group in ("llm", "vit", "connector", "scorer")),
)


@dataclass(frozen=True)
class Demo:
    """One run of the demo.

    Attributes:
      plan: sizes.
      output: folder of the report and its pictures.
      parts: folder of trained and evaluated parts, one for each length and seed of the demo.
      data_dir: of the procedural set.
      seed: of the set, the parameters and the order.
      finished: parts of an earlier run that are taken as they are.
    """

    plan: Plan
    output: Path
    parts: Path
    data_dir: Path
    seed: int
    finished: FinishedParts = field(default_factory=FinishedParts)

    def config(self, overrides: Sequence[str], name: str = "tiny") -> Config:
        """Returns a configuration on this run's videos, by default of the unpruned training."""
        splits = {"train": "train" if name == "tiny" else PICTURES}
        splits |= {split: split for split in ("validation", "test")}
        return load_config(
            name,
            [
                *NO_PRUNING,
                *(f"data.{k}={self.data_dir / file}.jsonl" for k, file in splits.items()),
                f"data.seed={self.seed}",
                f"train.seed={self.seed}",
                f"train.steps={self.plan.steps}",
                "train.evaluate_every=0",
                "train.save_every=0",
                *overrides,
            ],
        )

    def make_videos(self) -> None:
        """Makes the procedural set unless it exists."""
        print(f"the demo's {self.plan.videos} videos are in '{self.data_dir}'", flush=True)
        ensure_synthetic(self.data_dir, videos=self.plan.videos, seed=self.seed)

    def train_unpruned(self) -> dict[str, Any]:
        """Trains on pictures, then on videos, both without pruning."""
        pictures = self.config((f"train.steps={self.plan.picture_steps}",), "tiny_pictures")
        seen = self._trained(PICTURES, pictures, None)
        return self._trained(UNPRUNED, self.config(()), seen)

    def fine_tune(
        self, method: Method, unpruned: dict[str, Any], ratio: int | None = None
    ) -> dict[str, Any]:
        """Fine-tunes the unpruned model with a method; `ratio` is that of `fine_tune_config`."""
        return self._trained(method.name, self.fine_tune_config(method, ratio), unpruned)

    def fine_tune_config(self, method: Method, ratio: int | None = None) -> Config:
        """Returns the configuration of a fine-tune.

        Args:
          method: to train with.
          ratio: percent of the tokens dropped, for a method that doesn't train over several; by
            default that of the plan.
        """
        ratio = self.plan.fixed_ratio if ratio is None else ratio
        return self.config(
            (
                f"model.prune.topk={ratio / 100}",
                f"train.steps={self.plan.fine_tune_steps}",
                *FINE_TUNE,
                *(each.format(parts=self.parts) for each in method.overrides),
            )
        )

    def evaluate_unpruned(self, trained: dict[str, Any]) -> list[dict[str, Any]]:
        """Evaluates the unpruned model as it is, and without any visual token."""
        model, config = load_model(self.parts / UNPRUNED)
        return [
            self._evaluated(trained, 0, model, config),
            self._evaluated(trained, 100, model, config, TEXT_ONLY),
        ]

    def evaluate_inference_only(
        self, method: Method, trained: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Evaluates the unpruned model with a method that it was not trained with."""
        model, config = load_model(self.parts / UNPRUNED)
        config = override(config, method.overrides)
        return [
            self._evaluated(trained, k, *at_ratio(model, config, k), method.name)
            for k in self.plan.ratios
            if k
        ]

    def evaluate(
        self, trained: dict[str, Any], ratios: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Evaluates a fine-tuned model at ratios in percent, by default those of the plan."""
        model, config = load_model(self.parts / trained["name"])
        ratios = self.plan.ratios if ratios is None else ratios
        return [self._evaluated(trained, k, *at_ratio(model, config, k)) for k in ratios]

    def evaluate_auto(
        self, trained: dict[str, Any], evaluated: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Evaluates a model with thresholds that keep as many tokens in the mean as ratios do.

        Args:
          trained: the model.
          evaluated: what `evaluate` and `evaluate_unpruned` returned, of it and of the unpruned.
        """
        model, config = load_model(self.parts / trained["name"])
        encoder = vision_encoder(model)
        videos = list(scores_of_videos(encoder, config, self.data_dir, CALIBRATED_ON))
        runs = []
        # A ratio keeps a whole number of tokens, so it drops a little less than it says.
        tokens = {
            run["k"]: run["visual_tokens"]
            for run in evaluated
            if run["method"] in (trained["name"], UNPRUNED)
        }
        for k in self.plan.auto:
            threshold = calibrated_threshold(videos, 1 - tokens[k] / tokens[0])
            own = {"model.prune.topk": k / 100, "model.prune.threshold": threshold}
            changed = replace(config, own)
            runs.append(
                self._evaluated(trained, k, reconfigure(model, changed.model), changed, AUTO.name)
            )
        return runs

    def evaluate_first_fit(self, trained: dict[str, Any]) -> list[dict[str, Any]]:
        """Evaluates the same checkpoint with the reference's bins."""
        model, config = load_model(self.parts / trained["name"])
        bins = override(config, ["model.prune.layout=first_fit"])
        return [
            self._evaluated(trained, k, *at_ratio(reconfigure(model, bins.model), bins, k))
            for k in sorted({50, self.plan.fixed_ratio})
        ]

    def _trained(self, name: str, config: Config, begun: dict[str, Any] | None) -> dict[str, Any]:
        """Trains a model; `begun` is what this returned of the one that it starts from."""

        def run() -> dict[str, Any]:
            init_from = self.parts / begun["name"] if begun else None
            result = train(config, self.parts / name, init_from=init_from, resume=False)
            if result.stopped:
                raise KeyboardInterrupt
            return {
                "name": name,
                "steps": result.step,
                "train_steps_per_s": result.steps_per_s,
                "videos_per_step": config.data.batch_rows,
            }

        made_of = self._made_of(config) | {"begun": begun and begun["id"]}
        return self.finished.once(
            f"training '{name}', {config.train.steps} steps",
            self.parts / name / "trained.json",
            made_of,
            run,
        )

    def _evaluated(
        self,
        trained: dict[str, Any],
        k: int,
        model: VideoLanguageModel,
        config: Config,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Evaluates a model, under another name where it is not evaluated as it was trained."""
        packing = config.model.prune.layout
        as_trained, name = name is None, name or trained["name"]
        text_only = name == TEXT_ONLY

        def run() -> dict[str, Any]:
            result = evaluate_split(
                model, config, "test", limit=self.plan.questions, text_only=text_only, progress=True
            )
            result.save(folder, {"k": k, "packing": packing, "blind": text_only})
            config.save(folder)
            return {
                "method": name,
                "k": k,
                "packing": packing,
                "accuracy": result.accuracy,
                "accuracy_by_type": result.by_type,
                "visual_tokens": result.visual_tokens,
                "questions": len(result.predictions),
                "questions_per_s": result.questions_per_s,
                "train_steps_per_s": trained["train_steps_per_s"] if as_trained else None,
                "videos_per_step": trained["videos_per_step"] if as_trained else None,
                "seed": self.seed,
            }

        folder = self.parts / "evaluations" / f"{_file_name(name)}-{k}-{packing}"
        made_of = self._made_of(config) | {"of": trained["id"], "questions": self.plan.questions}
        found = self.finished.once(
            f"evaluating '{name}' at {k} %, {packing}", folder / "result.json", made_of, run
        )
        print(f"{name:28s} {k:3d} %  {packing:9s}  accuracy {100 * found['accuracy']:.1f} %")
        return found

    def _made_of(self, config: Config) -> dict[str, Any]:
        return {"config": asdict(config), "videos": self.plan.videos, "seed": self.seed}


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def at_ratio(
    model: VideoLanguageModel, config: Config, k: int
) -> tuple[VideoLanguageModel, Config]:
    """Returns the same parameters with k % of the tokens dropped."""
    changed = override(config, [f"model.prune.topk={k / 100}"])
    return reconfigure(model, changed.model), changed
