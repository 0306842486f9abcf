"""Training and evaluating what the plan asks for; finished parts are kept and not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stts_jax.config import Config, load_config, override
from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.demo.plan import BLIND, PICTURES, UNPRUNED, Method, Plan
from stts_jax.evaluation.runner import evaluate_split
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.training.checkpoint import load_model
from stts_jax.training.loop import train

NO_PRUNING = ("model.prune.method=none", "model.prune.topk=0.0")
# A fine-tune starts from a trained model, so its rates are lower, and half of the rows do for a
# step; the scorer is new.
FINE_TUNE = (
    "data.batch_rows=8",
    *(f"train.{group}.learning_rate=1e-3" for group in ("llm", "vit", "connector")),
    "train.scorer.learning_rate=3e-3",
    *(f"train.{group}.warmup=10" for group in ("llm", "vit", "connector", "scorer")),
)


@dataclass(frozen=True)
class Demo:
    """One run of the demo.

    Attributes:
      plan: sizes.
      output: folder of everything but the videos.
      data_dir: of the procedural set.
      seed: of the set, the parameters and the order.
      minutes_before: that the parts took which were found finished.
    """

    plan: Plan
    output: Path
    data_dir: Path
    seed: int
    minutes_before: list[float] = field(default_factory=list)

    def config(self, overrides: Sequence[str], name: str = "tiny") -> Config:
        """A configuration on this run's videos, by default that of the unpruned training."""
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
        """Make the procedural set unless it is there."""
        ensure_synthetic(self.data_dir, videos=self.plan.videos, seed=self.seed)

    def train_unpruned(self) -> dict[str, Any]:
        """Learn to see from pictures, then go on with videos, all without pruning."""
        pictures = self.config((f"train.steps={self.plan.picture_steps}",), "tiny_pictures")
        self._trained(PICTURES, pictures, None)
        return self._trained(UNPRUNED, self.config(()), self.output / PICTURES)

    def fine_tune(self, method: Method) -> dict[str, Any]:
        """Fine-tune from the unpruned model with a method at the plan's ratio."""
        config = self.config(
            (
                *method.overrides,
                f"model.prune.topk={self.plan.fine_tune_ratio / 100}",
                f"train.steps={self.plan.fine_tune_steps}",
                *FINE_TUNE,
            )
        )
        return self._trained(method.name, config, self.output / UNPRUNED)

    def evaluate_unpruned(self) -> list[dict[str, Any]]:
        """The unpruned model as it is, and without any visual token."""
        model, config = load_model(self.output / UNPRUNED)
        return [
            self._evaluated(UNPRUNED, 0, model, config),
            self._evaluated(BLIND, 100, model, config, blind=True),
        ]

    def evaluate(self, method: Method) -> list[dict[str, Any]]:
        """A fine-tuned model at every ratio."""
        model, config = load_model(self.output / method.name)
        return [
            self._evaluated(method.name, k, *at_ratio(model, config, k)) for k in self.plan.ratios
        ]

    def evaluate_first_fit(self, method: Method) -> list[dict[str, Any]]:
        """The same checkpoint in the reference's bins."""
        model, config = load_model(self.output / method.name)
        bins = override(config, ["model.prune.packing=first_fit"])
        return [
            self._evaluated(method.name, k, *at_ratio(reconfigure(model, bins.model), bins, k))
            for k in sorted({50, self.plan.fine_tune_ratio})
        ]

    def _trained(self, name: str, config: Config, init_from: Path | None) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            summary = train(config, self.output / name, init_from=init_from, resume=False)
            if summary["stopped"]:
                raise KeyboardInterrupt
            return {
                "steps": summary["step"],
                "train_steps_per_s": summary["steps_per_s"],
                "videos_per_step": config.data.batch_rows,
            }

        return self._once(self.output / name / "trained.json", run)

    def _evaluated(
        self,
        name: str,
        k: int,
        model: VideoLanguageModel,
        config: Config,
        blind: bool = False,
    ) -> dict[str, Any]:
        packing = config.model.prune.packing

        def run() -> dict[str, Any]:
            result = evaluate_split(
                model, config, "test", limit=self.plan.questions, blind=blind, progress=True
            )
            result.save(folder, {"k": k, "packing": packing, "blind": blind})
            return {
                "method": name,
                "k": k,
                "packing": packing,
                "accuracy": result.accuracy,
                "accuracy_by_type": result.by_type,
                "visual_tokens": 0 if blind else result.visual_tokens,
                "questions": len(result.predictions),
                "questions_per_s": result.questions_per_s,
                "seed": self.seed,
            }

        folder = self.output / "evaluations" / f"{name.replace(' ', '_')}-{k}-{packing}"
        found = self._once(folder / "result.json", run)
        print(f"{name:28s} {k:3d} %  {packing:9s}  accuracy {100 * found['accuracy']:.1f} %")
        return found

    def _once(self, path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result in `path` if it is of this plan and seed, else that of `run`, kept there."""
        made_with = json.loads(json.dumps({**asdict(self.plan), "seed": self.seed}))
        if path.is_file():
            found = json.loads(path.read_text())
            if found["made_with"] == made_with:
                self.minutes_before.append(found["minutes"])
                return found["result"]
        started = time.monotonic()
        result = run()
        kept = {
            "made_with": made_with,
            "minutes": (time.monotonic() - started) / 60,
            "result": result,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=2) + "\n")
        return kept["result"]


def at_ratio(
    model: VideoLanguageModel, config: Config, k: int
) -> tuple[VideoLanguageModel, Config]:
    """The same parameters with k % of the tokens dropped."""
    changed = override(config, [f"model.prune.topk={k / 100}"])
    return reconfigure(model, changed.model), changed
