"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stts_jax.config.checks import require, require_positive, require_within_limits
from stts_jax.config.lora import FrozenWeights, LoraConfig
from stts_jax.quoting import shorten

# The scorer is always trained.
_FREEZABLE = ("llm", "vit", "connector")


@dataclass(frozen=True)
class GroupConfig:
    """Learning rate and warm-up of one group of parameters.

    Attributes:
      learning_rate: at its peak, after the warm-up.
      warmup: steps in which the learning rate rises from 0 in a straight line.
    """

    learning_rate: float
    warmup: int = 200

    def __post_init__(self) -> None:
        require_within_limits("train group", self, path="")
        require(self.learning_rate >= 0, f"learning_rate is {self.learning_rate}; use 0 or more")
        require(self.warmup >= 0, f"warmup is {self.warmup} steps; use 0 or more")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; the product is the number of devices.

    Attributes:
      data: copies of the parameters. 0 takes the devices that are left.
      fsdp: parts that parameters and optimizer state are cut into, gathered layer by layer. 0
        takes the devices that are left. If data is 0 too, all that is left goes to `fsdp` where
        the state would fill much of a device, and to `data` where it is small.
      tensor: parts that heads and hidden widths are cut into.
      context: parts that rows are cut into: the frames of the ViT, the tokens of the LLM.
    """

    data: int = 0
    fsdp: int = 0
    tensor: int = 1
    context: int = 1

    def __post_init__(self) -> None:
        require_within_limits("train.mesh", self)
        for name, least in (("data", 0), ("fsdp", 0), ("tensor", 1), ("context", 1)):
            value = getattr(self, name)
            hint = "0 (what is left) or more" if least == 0 else "1 or more"
            require(value >= least, f"train.mesh.{name} is {value}; use {hint}")


@dataclass(frozen=True)
class DistillConfig:
    """Distillation: answers of the pruned model are pulled towards those of an unpruned one.

    The KL divergence from a teacher's distribution of each answer token to the model's is added to
    the loss. Its weight is chosen row by row, so that its gradient by the logits has a given share
    of the norm of the cross entropy's.

    Attributes:
      teacher: folder of a trained model, which reads all tokens and is not trained; `self` for the
        model that is trained, reading all tokens; empty for no distillation.
      share: norm of the gradient of the KL by the logits of a row, as a share of that of the cross
        entropy.
      max_weight: the weight that the KL gets at most, where it has almost no gradient.
    """

    teacher: str = ""
    share: float = 0.1
    max_weight: float = 100.0

    def __post_init__(self) -> None:
        require_within_limits("train.distill", self)
        require_positive("train.distill", self, "share", "max_weight")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation; defaults are the paper's recipe.

    Attributes:
      steps: updates of the parameters in the whole run.
      seed: of fresh parameters and of dropout.
      llm: parameters of the language model.
      vit: parameters of the vision transformer.
      connector: parameters of the connector.
      scorer: parameters of the scorer.
      optimizer: `adamw`, as the paper, or `muon`, which learns the tiny model in far fewer steps;
        it orthogonalises the updates of the kernels and leaves all else to Adam.
      final_learning_rate: share of the peak at which the cosine ends.
      beta1: decay of Adam's mean of the gradient.
      beta2: decay of Adam's mean of the squared gradient; with `muon` also that of its momentum.
      epsilon: added to Adam's divisor.
      weight_decay: share of a parameter that is taken off at a learning rate of 1.
      clip: the gradient of each group is scaled to at most this norm.
      accumulate: parts of a batch's rows that are computed one after the other, and their gradients
        summed: a batch of any size in the memory of a part. The update is that of the whole batch;
        only `first_fit` fills its bins with the rows of a part.
      z_loss: weight of the squared log-partition term.
      distill: a KL on answer tokens to an unpruned model, off by default.
      freeze_base_embedding: leave the base embedding (and a tied head) as it was.
      lora: adapters, to train few parameters.
      freeze: parts that are left as they were (llm, vit, connector), to train what is left, the
        scorer for example.
      frozen_weights: what the frozen kernels and tables are held in, with `lora` or `freeze`:
        `compute`, the type that the model computes in; `bfloat16`; or `int8`, with a scale for each
        output.
      log_every: steps between log lines, each of which tells of the steps since the last one; 0
        prints none.
      evaluate_every: steps between evaluations; 0 turns them off.
      evaluate_examples: questions of the validation set that an evaluation answers, the first.
      save_every: steps between checkpoints; 0 saves when the run ends or is
        stopped.
      keep_checkpoints: how many of the newest checkpoints are kept.
      keep_best: keep the checkpoint with the best validation accuracy too, however old; the best
        ROUGE-L where all validation answers are captions or long.
      mesh: how devices share the work.
      skip_loss_spikes: leave the parameters as they are in a step whose loss or gradient norm is
        more than this many times its running mean; 0 turns it off. A loss that is not finite
        stops the run all the same.
      profile: first and last step to write a profile of, into OUTPUT/profile; empty for none.
      tensorboard: write TensorBoard events into OUTPUT/tensorboard; needs the extra `tensorboard`.
      wandb: project of Weights & Biases to log to, empty for none; needs the extra `wandb`.
    """

    steps: int = 6250
    seed: int = 0
    llm: GroupConfig = field(default_factory=lambda: GroupConfig(1e-5))
    vit: GroupConfig = field(default_factory=lambda: GroupConfig(5e-6))
    connector: GroupConfig = field(default_factory=lambda: GroupConfig(5e-6))
    scorer: GroupConfig = field(default_factory=lambda: GroupConfig(1e-4))
    optimizer: Literal["adamw", "muon"] = "adamw"
    final_learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    z_loss: float = 1e-4
    distill: DistillConfig = field(default_factory=DistillConfig)
    freeze_base_embedding: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: tuple[str, ...] = ()
    frozen_weights: FrozenWeights = "compute"
    log_every: int = 1
    evaluate_every: int = 1000
    evaluate_examples: int = 256
    save_every: int = 500
    keep_checkpoints: int = 2
    keep_best: bool = True
    mesh: MeshConfig = field(default_factory=MeshConfig)
    skip_loss_spikes: float = 0.0
    profile: tuple[int, ...] = ()
    tensorboard: bool = False
    wandb: str = ""

    def __post_init__(self) -> None:
        require_within_limits("train", self)
        require(self.seed >= 0, f"train.seed is {self.seed}; use 0 or more")
        require_positive("train", self, "steps", "clip", "epsilon", "keep_checkpoints")
        require_positive("train", self, "accumulate", "evaluate_examples")
        for name in ("log_every", "evaluate_every", "save_every", "weight_decay", "z_loss"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name} is {value}; use 0 (off) or more")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"train.{name} is {value}; use 0 to below 1")
        require(
            0.0 <= self.final_learning_rate <= 1.0,
            f"train.final_learning_rate is {self.final_learning_rate}; it is a share of the peak",
        )
        require(
            self.skip_loss_spikes == 0 or self.skip_loss_spikes > 1,
            f"train.skip_loss_spikes is {self.skip_loss_spikes}; use 0 (off) or above 1, it is "
            "times the running mean",
        )
        require(
            not self.profile
            or (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]),
            f"train.profile is {list(self.profile)}; give first and last step, like [10, 15]",
        )
        for part in self.freeze:
            require(
                part in _FREEZABLE,
                f"train.freeze has {shorten(part)}; choose from {', '.join(_FREEZABLE)}",
            )

        require(
            self.frozen_weights != "int8" or self.lora.rank > 0 or {"llm", "vit"} <= {*self.freeze},
            "train.frozen_weights is int8, but ViT or LLM are trained; set train.lora.rank or "
            'train.freeze=["llm", "vit"]',
        )

    @property
    def has_base(self) -> bool:
        """Returns whether the run trains a part of a model whose rest is in another checkpoint."""
        return self.lora.rank > 0 or bool(self.freeze)
