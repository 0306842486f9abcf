"""The model: vision transformer, pruning, connector, language model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from stts_jax.config.checks import require, require_positive, require_within_limits

PruneMethod = Literal["none", "scorer", "heuristic", "easy", "random", "tome", "evs"]
PruneLayout = Literal["stream", "first_fit"]
PruneShare = Literal["video", "row"]
Bidirectional = Literal["none", "image_tokens", "within_image"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]

# The order in which the reference numbers its extra tokens, from the vocabulary size upwards
# (olmo/tokenizer.py). The strings are the reference's own.
SPECIAL_TOKENS = (
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
)
# Tokens that see each other in both directions (olmo/models/molmo2/molmo2.py).
IMAGE_STRUCTURE_TOKENS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)

_METHODS = ", ".join(method for method in get_args(PruneMethod) if method != "none")

# Each ratio that a run trains over is a program to compile.
MOST_TRAIN_RATIOS = 16


@dataclass(frozen=True)
class VitConfig:
    """Vision transformer, by default SigLIP2 so400m/14-384.

    `layers` is what the pretrained checkpoint says; only the blocks that `feature_layers` need are
    built (`depth`). Negative feature layers count from the end of `layers`, before that trimming.

    Attributes:
      image_size: side of a frame or crop in pixels; a multiple of `patch_size`.
      patch_size: side of a patch in pixels.
      width: hidden width.
      heads: attention heads.
      head_dim: width of a head.
      mlp_width: hidden width of the MLPs.
      layers: blocks that the pretrained checkpoint has.
      feature_layers: blocks whose outputs are concatenated for the connector, in this order;
        negative numbers count from the last block.
      positions: rows of the position embedding, a square number; another grid of patches gets
        interpolated ones.
      norm_epsilon: added to the variance in layer norms.
    """

    image_size: int = 378
    patch_size: int = 14
    width: int = 1152
    heads: int = 16
    head_dim: int = 72
    mlp_width: int = 4304
    layers: int = 27
    feature_layers: tuple[int, ...] = (-3, -9)
    positions: int = 729
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        owner = "model.vit"
        require_within_limits(owner, self)
        require_positive(owner, self, "image_size", "patch_size", "width", "heads", "head_dim")
        require_positive(owner, self, "mlp_width", "layers", "positions", "norm_epsilon")
        require(
            self.image_size % self.patch_size == 0,
            f"{owner}.image_size is {self.image_size}, which patches of {self.patch_size} pixels "
            f"don't tile; use a multiple of {owner}.patch_size",
        )
        require(len(self.feature_layers) > 0, f"{owner}.feature_layers is empty; name a layer")
        for layer in self.feature_layers:
            require(
                -self.layers <= layer < self.layers,
                f"{owner}.feature_layers has {layer}, but there are only {self.layers} layers; "
                f"choose from {-self.layers} to {self.layers - 1}",
            )
        side = math.isqrt(self.positions)
        require(
            side * side == self.positions,
            f"{owner}.positions is {self.positions}, which is not a square; use a square number",
        )

    @property
    def grid(self) -> int:
        """Returns the patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Returns N, the patches in a frame."""
        return self.grid**2

    @property
    def patch_dim(self) -> int:
        """Returns the pixel values in a patch: rows, columns, RGB."""
        return self.patch_size**2 * 3

    @property
    def resolved_feature_layers(self) -> tuple[int, ...]:
        """Returns the 0-based indices of the feature layers, in order of concatenation."""
        return tuple(layer % self.layers for layer in self.feature_layers)

    @property
    def depth(self) -> int:
        """Returns the number of blocks that are built: up to the deepest feature layer."""
        return max(self.resolved_feature_layers) + 1


@dataclass(frozen=True)
class PruneConfig:
    """Token scoring and pruning, as in the paper; defaults are those of the reference.

    Attributes:
      method: how tokens are rated: `none` drops nothing, `scorer` is STTS; `heuristic`, `easy`,
        `random` and `tome` (which merges tokens) are the paper's baselines, `evs` is Efficient
        Video Sampling. Only `scorer` has parameters.
      topk: fraction of a video's pooled tokens that is REMOVED, 0 <= topk < 1.
      train_ratios: ratios to train over instead of `topk` alone, 0 among them for unpruned: each
        step draws one, from `train.seed` and its number. `topk` is then the ratio of evaluations;
        bias and temporal loss are there at every ratio, also at 0.
      train_ratio_weights: how often each of `train_ratios` is drawn, in proportion; empty draws all
        alike.
      share: whose tokens compete: each `video` loses its own lowest-scored ones, or the videos of a
        packed `row` share by score the number that they lose together.
      threshold: score that a token needs to stay, in answers: each video keeps what it needs; 0
        drops the same share of every video, `topk`. `python -m stts_jax.calibrate`
        prints the threshold that drops a wanted share of all videos' tokens on average.
      prune_at: 0-based block l after which tokens are scored; the log-score biases block l+1 and
        tokens are dropped after that one. The baselines drop after l; `heuristic` and `easy` score
        the block-0 inputs, `tome` matches the outputs of l, and `evs` has no l: it drops after the
        ViT.
      pooling: side of the square of patches that makes one pooled token.
      pruning_in_scorer: `false` keeps every patch in the ViT (the bias then stays in all later
        blocks) and drops tokens only at the connector.
      prune_from_frame: frames that are taken off the count that the budget is made from.
      rescale_bias_min: the worst token of each row of tokens has the bias log(rescale_bias_min).
      loss_coefficient: weight of the temporal loss.
      new_reference_threshold: mean similarity under which the baselines protect a frame.
      layout: of the kept patches: `stream` or, to reproduce the reference exactly,
        `first_fit`.
      protect_first_frame: never drop tokens of a first frame, also where the budget asks for more
        tokens than the other frames have (1-frame videos). The reference drops them.
    """

    method: PruneMethod = "none"
    topk: float = 0.0
    train_ratios: tuple[float, ...] = ()
    train_ratio_weights: tuple[float, ...] = ()
    share: PruneShare = "video"
    threshold: float = 0.0
    prune_at: int = 3
    pooling: int = 3
    pruning_in_scorer: bool = True
    prune_from_frame: int = 0
    rescale_bias_min: float = math.exp(-2.0)
    loss_coefficient: float = 0.5
    new_reference_threshold: float = 0.85
    layout: PruneLayout = "stream"
    protect_first_frame: bool = False

    def __post_init__(self) -> None:
        owner = "model.prune"
        require_within_limits(owner, self)
        require_positive(owner, self, "pooling")
        require(
            0.0 <= self.topk < 1.0,
            f"{owner}.topk is {self.topk}; it is the fraction removed, from 0 to below 1",
        )
        require(
            self.method != "none" or self.topk == 0.0,
            f"{owner}.topk is {self.topk} but {owner}.method is 'none', which removes nothing; "
            f"set the method ({_METHODS}) or topk=0",
        )
        require(
            0.0 <= self.threshold < 1.0,
            f"{owner}.threshold is {self.threshold}; scores lie between 0 and 1, and 0 is off",
        )
        require(
            not self.threshold or (self.method == "scorer" and self.topk > 0),
            f"{owner}.threshold is {self.threshold}, which needs {owner}.method=scorer and a "
            f"{owner}.topk above 0, the share to drop on average; set them, or threshold=0",
        )
        self._require_train_ratios()
        require(self.prune_at >= 0, f"{owner}.prune_at is {self.prune_at}; use 0 or more")
        require(
            self.prune_from_frame >= 0,
            f"{owner}.prune_from_frame is {self.prune_from_frame}; use 0 or more",
        )
        require(
            0.0 < self.rescale_bias_min < 1.0,
            f"{owner}.rescale_bias_min is {self.rescale_bias_min}; use a value between 0 and 1",
        )
        require(
            -1.0 <= self.new_reference_threshold <= 1.0,
            f"{owner}.new_reference_threshold is {self.new_reference_threshold}; it is a cosine, "
            "from -1 to 1",
        )
        require(
            self.loss_coefficient >= 0.0,
            f"{owner}.loss_coefficient is {self.loss_coefficient}; use 0 or more",
        )

    def _require_train_ratios(self) -> None:
        ratios, weights = self.train_ratios, self.train_ratio_weights
        owner = "model.prune.train_ratios"
        require(
            len(ratios) <= MOST_TRAIN_RATIOS,
            f"{owner} has {len(ratios)} ratios, each of which is a program to compile; use at most "
            f"{MOST_TRAIN_RATIOS}",
        )
        for ratio in ratios:
            require(
                0.0 <= ratio < 1.0,
                f"{owner} has {ratio}; each is the fraction removed, from 0 to below 1",
            )
        require(len(set(ratios)) == len(ratios), f"{owner} is {list(ratios)}; name each ratio once")
        require(
            not any(ratios) or self.method != "none",
            f"{owner} is {list(ratios)} but model.prune.method is 'none', which removes nothing; "
            f"set the method ({_METHODS})",
        )
        require(
            not weights or (len(weights) == len(ratios) and min(weights) > 0),
            f"model.prune.train_ratio_weights is {list(weights)}; give a weight above 0 for each "
            f"of the {len(ratios)} train_ratios, or none",
        )

    @property
    def biases_keys(self) -> bool:
        """Returns whether scores bias a block's attention; trained over ratios, they always do."""
        return self.method == "scorer" and (self.topk > 0 or bool(self.train_ratios))

    @property
    def runs_whole_vit(self) -> bool:
        """Returns whether all blocks of the ViT run on every patch, whatever is dropped later."""
        return self.method in ("none", "evs")

    @property
    def in_vit(self) -> bool:
        """Returns whether what is dropped is dropped between blocks of the ViT, not after it."""
        return self.pruning_in_scorer and not self.runs_whole_vit

    @property
    def drops_patches(self) -> bool:
        """Returns whether patches are dropped in the ViT too, not only tokens in the LLM."""
        return self.topk > 0 and self.in_vit

    @property
    def last_dense_layer(self) -> int:
        """Returns the index of the last block before the drop, of methods that drop after l."""
        return self.prune_at + 1 if self.method == "scorer" else self.prune_at


@dataclass(frozen=True)
class ConnectorConfig:
    """Attention pooling and SwiGLU projector between ViT and LLM.

    Attributes:
      heads: attention heads of the pooling.
      head_dim: width of a head of the pooling.
      width: width of a pooled token, before it is projected to the LLM's width.
      mlp_width: hidden width of the projector.
      pooling_attention_mask: patches that a window lacks (dropped, or beyond the edge) have no part
        in its pooling; otherwise they count as zeros.
      image_pooling: side of the square of patches that makes one token of an image; for videos
        see `model.prune.pooling`.
    """

    heads: int = 16
    head_dim: int = 72
    width: int = 1152
    mlp_width: int = 9728
    pooling_attention_mask: bool = True
    image_pooling: int = 2

    def __post_init__(self) -> None:
        require_within_limits("model.connector", self)
        require_positive("model.connector", self, "heads", "head_dim", "width", "mlp_width")
        require_positive("model.connector", self, "image_pooling")


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension of the rotary embedding, on some layers; only OLMo3 has it.

    Attributes:
      layers: 0-based layers whose rotary embedding is extended.
      factor: how many times longer the context becomes.
      original_length: context in tokens that the model was first trained on.
      beta_fast: frequencies that turn at least this often in the original context stay.
      beta_slow: frequencies that turn at most this often in the original context are divided by
        `factor`.
      attention_factor: what sines and cosines are multiplied by; `none` takes YaRN's own,
        0.1 ln(factor) + 1.
    """

    layers: tuple[int, ...]
    factor: float = 8.0
    original_length: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        owner = "model.llm.yarn"
        require_within_limits(owner, self)
        require_positive(owner, self, "factor", "original_length", "beta_fast", "beta_slow")
        require(
            self.beta_fast >= self.beta_slow,
            f"{owner}.beta_fast is {self.beta_fast}, below beta_slow={self.beta_slow}; swap them",
        )


@dataclass(frozen=True)
class LlmConfig:
    """Language model in either form: Qwen3 (pre-norm) or OLMo3 (post-norm).

    Attributes:
      vocab_size: V, rows of the base embedding; only these can be predicted.
      extra_vocab_size: rows of the embedding of new tokens, numbered from V.
      width: hidden width.
      layers: number of layers.
      heads: heads of queries; a multiple of `kv_heads`.
      kv_heads: heads of keys and values.
      head_dim: width of a head; even.
      mlp_width: width of gate and of up, each.
      norm_epsilon: added to the mean square in RMS norms.
      norm_position: `pre` normalises what goes into a sub-layer, `post` what comes out of it.
      qk_norm: RMS norm of q and k per `head`, over the `full` projection, or `none`.
      rope_theta: base of the rotary embedding's frequencies.
      yarn: extension of the context, absent by default.
      tied_head: the output head is the base embedding.
      bidirectional: which later visual tokens a visual token sees: `none`, all `image_tokens` of
        its example, or those of its own frame or picture (`within_image`).
      max_positions: length of text and visual tokens that the model was trained on; longer examples
        are warned of.
      residual_dropout: share of what each sub-layer adds that is dropped in training.
      response_residual_dropout: the same for the tokens of answers; 0 gives them the rate of all
        others.
    """

    vocab_size: int = 151936
    extra_vocab_size: int = 128
    width: int = 2560
    layers: int = 36
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    mlp_width: int = 9728
    norm_epsilon: float = 1e-6
    norm_position: Literal["pre", "post"] = "pre"
    qk_norm: Literal["none", "head", "full"] = "head"
    rope_theta: float = 5e6
    yarn: YarnConfig | None = None
    tied_head: bool = True
    bidirectional: Bidirectional = "image_tokens"
    max_positions: int = 36864
    residual_dropout: float = 0.0
    response_residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        owner = "model.llm"
        require_within_limits(owner, self)
        require_positive(owner, self, "vocab_size", "width", "layers", "heads", "kv_heads")
        require_positive(owner, self, "head_dim", "mlp_width", "norm_epsilon")
        require_positive(owner, self, "max_positions")
        require(
            self.rope_theta > 1.0,
            f"{owner}.rope_theta is {self.rope_theta}; it is a base of powers, set it above 1",
        )
        require(
            self.extra_vocab_size >= len(SPECIAL_TOKENS),
            f"{owner}.extra_vocab_size is {self.extra_vocab_size}, but {len(SPECIAL_TOKENS)} "
            "visual tokens need a row each; raise it",
        )
        require(
            self.heads % self.kv_heads == 0,
            f"{owner}.heads is {self.heads}, not a multiple of {owner}.kv_heads={self.kv_heads}; "
            "every key head serves the same number of query heads",
        )
        require(
            self.head_dim % 2 == 0,
            f"{owner}.head_dim is {self.head_dim}; rotary embedding needs an even number",
        )
        for name in ("residual_dropout", "response_residual_dropout"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"{owner}.{name} is {value}; use 0 to below 1")
        for layer in self.yarn.layers if self.yarn else ():
            require(
                0 <= layer < self.layers,
                f"{owner}.yarn.layers has {layer}, but there are only {self.layers} layers; "
                f"choose from 0 to {self.layers - 1}",
            )

    def special_token(self, name: str) -> int:
        """Returns the id of one of `SPECIAL_TOKENS`."""
        return self.vocab_size + SPECIAL_TOKENS.index(name)


@dataclass(frozen=True)
class ModelConfig:
    """The whole video language model.

    Attributes:
      vit: vision transformer.
      prune: which visual tokens are dropped.
      connector: between vision transformer and language model.
      llm: language model.
      compute_dtype: type of activations; `auto` is bfloat16 on TPUs and GPUs, float32 on CPUs.
      remat: activations that the backward pass recomputes: those of `blocks`, which saves memory,
        or `none`, which saves time.
    """

    vit: VitConfig = field(default_factory=VitConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    compute_dtype: ComputeDtype = "auto"
    remat: Literal["none", "blocks"] = "blocks"

    def __post_init__(self) -> None:
        prune, vit = self.prune, self.vit
        require(
            prune.pooling <= vit.grid,
            f"model.prune.pooling is {prune.pooling}, wider than the grid of {vit.grid} x "
            f"{vit.grid} patches; use at most {vit.grid}",
        )
        require(
            vit.grid % prune.pooling == 0,
            f"model.prune.pooling is {prune.pooling}, which doesn't fit the grid of {vit.grid} x "
            f"{vit.grid} patches; choose a divisor of {vit.grid}, or another model.vit.image_size",
        )
        require(
            self.connector.image_pooling <= vit.grid,
            f"model.connector.image_pooling is {self.connector.image_pooling}, wider than the grid "
            f"of {vit.grid} x {vit.grid} patches; use at most {vit.grid}",
        )
        blocks_after = prune.last_dense_layer - prune.prune_at
        most = vit.depth - 1 - blocks_after
        remedy = f"use at most {most}" if most >= 0 else "use a deeper feature layer"
        require(
            prune.runs_whole_vit or prune.prune_at <= most,
            f"model.prune.prune_at is {prune.prune_at}, but the ViT has only {vit.depth} blocks "
            f"and method '{prune.method}' needs block {prune.last_dense_layer}; {remedy}",
        )

    @property
    def dense_blocks(self) -> int:
        """Returns the number of blocks that have every patch: those up to the drop, or all."""
        whole = self.prune.runs_whole_vit
        return self.vit.depth if whole else self.prune.last_dense_layer + 1

    @property
    def tokens_per_frame(self) -> int:
        """Returns P, the pooled tokens of one video frame."""
        return math.ceil(self.vit.grid / self.prune.pooling) ** 2
