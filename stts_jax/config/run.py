"""The configuration of a run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from stts_jax.config.checks import require, require_positive, require_within_limits
from stts_jax.config.data import DataConfig
from stts_jax.config.model import ModelConfig
from stts_jax.config.train import TrainConfig


@dataclass(frozen=True)
class EvalConfig:
    """Answering: greedy unless `temperature` is above 0.

    Attributes:
      batch_rows: questions that are answered at once, over all devices; of fewer, all.
      max_new_tokens: tokens of an answer, at most.
      temperature: 0 takes the likeliest token; above 0 tokens are drawn, the more evenly the
        higher it is.
      top_k: draw from this many of the likeliest tokens; 0 from all.
      top_p: draw from the likeliest tokens that together have this probability; 1 from all.
    """

    batch_rows: int = 8
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require_within_limits("eval", self)
        require_positive("eval", self, "batch_rows", "max_new_tokens")
        require(self.temperature >= 0, f"eval.temperature is {self.temperature}; use 0 or more")
        require(self.top_k >= 0, f"eval.top_k is {self.top_k}; use 0 (off) or more")
        require(0.0 < self.top_p <= 1.0, f"eval.top_p is {self.top_p}; use above 0, to 1")


@dataclass(frozen=True)
class Config:
    """Everything a run needs. Saved as `config.json` beside what comes out.

    Attributes:
      name: what the setup is called.
      model: sizes of the model.
      data: sources of the data, and the making of rows.
      train: how the model is trained.
      eval: how questions are answered.
    """

    name: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        require(
            self.data.topk is None or self.data.topk == self.model.prune.topk,
            f"data.topk is {self.data.topk} but model.prune.topk is {self.model.prune.topk}; "
            "rows are packed for the tokens that the model keeps, so set both alike or only "
            "model.prune.topk",
        )
        require(
            not set(self.train.freeze) >= {"llm", "vit", "connector"}
            or self.train.lora.rank > 0
            or self.model.prune.method == "scorer",
            "train.freeze leaves nothing to train, as the model has no scorer; leave a part out of "
            "it, or set model.prune.method=scorer",
        )

    def save(self, folder: Path) -> None:
        """Writes `config.json`, complete and readable by `load_config`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.write(folder / "config.json")

    def write(self, file: Path) -> None:
        """Writes the configuration to a .json file of any name, like `save`."""
        file.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
