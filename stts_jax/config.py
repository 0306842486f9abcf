"""Configuration: frozen dataclasses, one per part, checked where they are built. No JAX here.

Every published setup is one short TOML file in `configs/`; a file may name another as its `base`
and states only what differs. `load_config("tiny", ["model.prune.topk=0.3"])` is what the command
lines use. Anything wrong (unknown key, wrong type, impossible combination) raises `ConfigError`
with one sentence that names the key, the value and the remedy, before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"

PruneMethod = Literal["none", "scorer", "heuristic", "easy", "random"]
Packing = Literal["stream", "first_fit"]
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


class ConfigError(ValueError):
    """A configuration that cannot be built; the message is one sentence with the remedy."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive(owner: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{owner}.{name} is {value}; set it above 0")


@dataclass(frozen=True)
class VitConfig:
    """Vision transformer (SigLIP2 so400m/14-384 by default; MODEL 1.1).

    `layers` is what the pretrained checkpoint says; only the blocks that `feature_layers` need are
    built (`depth`). Negative feature layers count from the end of `layers`, before that trimming.
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
        _require_positive(owner, self, "image_size", "patch_size", "width", "heads", "head_dim")
        _require_positive(owner, self, "mlp_width", "layers", "positions", "norm_epsilon")
        _require(
            self.image_size % self.patch_size == 0,
            f"{owner}.image_size is {self.image_size}, which patches of {self.patch_size} pixels "
            f"don't tile; use a multiple of {owner}.patch_size",
        )
        _require(len(self.feature_layers) > 0, f"{owner}.feature_layers is empty; name a layer")
        for layer in self.feature_layers:
            _require(
                -self.layers <= layer < self.layers,
                f"{owner}.feature_layers has {layer}, but there are only {self.layers} layers; "
                f"choose from {-self.layers} to {self.layers - 1}",
            )
        side = math.isqrt(self.positions)
        _require(
            side * side == self.positions,
            f"{owner}.positions is {self.positions}, which is no square grid; use a square number",
        )

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """N, patches in a frame."""
        return self.grid**2

    @property
    def patch_dim(self) -> int:
        """Pixel values in a patch: rows, columns, RGB."""
        return self.patch_size**2 * 3

    @property
    def resolved_feature_layers(self) -> tuple[int, ...]:
        """0-based block indices whose outputs are the features, in order of concatenation."""
        return tuple(layer % self.layers for layer in self.feature_layers)

    @property
    def depth(self) -> int:
        """Blocks that are built: those after the deepest feature layer are not needed."""
        return max(self.resolved_feature_layers) + 1


@dataclass(frozen=True)
class PruneConfig:
    """Token scoring and pruning (the paper; defaults as the reference's `TemporalVitConfig`).

    Attributes:
      method: `scorer` is STTS; `heuristic`, `easy` and `random` are the paper's baselines.
      topk: fraction of a video's pooled tokens that is REMOVED, 0 <= topk < 1.
      prune_at: 0-based block l after which tokens are scored; the log-score biases block l+1 and
        tokens are dropped after that one. The baselines score the block-0 inputs and drop after l.
      pooling: side of the square of patches that makes one pooled token.
      pruning_in_scorer: False keeps every patch in the ViT (the bias then stays in all later
        blocks) and drops tokens only at the connector.
      prune_from_frame: that many frames are taken off the count that the budget is made from.
      rescale_bias_min: the worst cell of each row of cells gets log(rescale_bias_min) as its bias.
      loss_coefficient: weight of the temporal loss.
      new_reference_threshold: baselines only, mean similarity under which a frame is protected.
      packing: `stream` or, to reproduce the reference exactly, `first_fit`.
      protect_first_frame: never drop tokens of a first frame, also where the budget asks for more
        tokens than the other frames have (1-frame videos). The reference drops them.
    """

    method: PruneMethod = "none"
    topk: float = 0.0
    prune_at: int = 3
    pooling: int = 3
    pruning_in_scorer: bool = True
    prune_from_frame: int = 0
    rescale_bias_min: float = math.exp(-2.0)
    loss_coefficient: float = 0.5
    new_reference_threshold: float = 0.85
    packing: Packing = "stream"
    protect_first_frame: bool = False

    def __post_init__(self) -> None:
        owner = "model.prune"
        _require_positive(owner, self, "pooling")
        _require(
            0.0 <= self.topk < 1.0,
            f"{owner}.topk is {self.topk}; it is the fraction removed, from 0 to below 1",
        )
        _require(
            self.method != "none" or self.topk == 0.0,
            f"{owner}.topk is {self.topk} but {owner}.method is 'none', which removes nothing; "
            "set the method (scorer, heuristic, easy, random) or topk=0",
        )
        _require(self.prune_at >= 0, f"{owner}.prune_at is {self.prune_at}; use 0 or more")
        _require(
            self.prune_from_frame >= 0,
            f"{owner}.prune_from_frame is {self.prune_from_frame}; use 0 or more",
        )
        _require(
            0.0 < self.rescale_bias_min < 1.0,
            f"{owner}.rescale_bias_min is {self.rescale_bias_min}; use a value between 0 and 1",
        )
        _require(
            -1.0 <= self.new_reference_threshold <= 1.0,
            f"{owner}.new_reference_threshold is {self.new_reference_threshold}; it is a cosine, "
            "from -1 to 1",
        )
        _require(
            self.loss_coefficient >= 0.0,
            f"{owner}.loss_coefficient is {self.loss_coefficient}; use 0 or more",
        )

    @property
    def last_dense_layer(self) -> int:
        """The last block that still sees every patch."""
        return self.prune_at + 1 if self.method == "scorer" else self.prune_at


@dataclass(frozen=True)
class ConnectorConfig:
    """Attention pooling and SwiGLU projector between ViT and LLM (MODEL 1.2)."""

    heads: int = 16
    head_dim: int = 72
    width: int = 1152
    mlp_width: int = 9728
    pooling_attention_mask: bool = True
    image_pooling: int = 2

    def __post_init__(self) -> None:
        _require_positive("model.connector", self, "heads", "head_dim", "width", "mlp_width")
        _require_positive("model.connector", self, "image_pooling")


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension of the rotary embedding, on some layers (OLMo3; MODEL 2.5)."""

    layers: tuple[int, ...]
    factor: float = 8.0
    original_length: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        owner = "model.llm.yarn"
        _require_positive(owner, self, "factor", "original_length", "beta_fast", "beta_slow")
        _require(
            self.beta_fast >= self.beta_slow,
            f"{owner}.beta_fast is {self.beta_fast}, below beta_slow={self.beta_slow}; swap them",
        )


@dataclass(frozen=True)
class LlmConfig:
    """Language model in either form: Qwen3 (pre-norm) or OLMo3 (post-norm) (MODEL 1.3).

    Attributes:
      vocab_size: V, rows of the base embedding; only these can be predicted.
      extra_vocab_size: rows of the embedding of new tokens, numbered from V.
      mlp_width: width of gate and of up, each.
      norm_position: `pre` normalises what goes into a sub-layer, `post` what comes out of it.
      qk_norm: RMS norm of q and k per head, over the full projection, or none.
      bidirectional: who sees whom among visual tokens, see `layers.attention_mask`.
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
        _require_positive(owner, self, "vocab_size", "width", "layers", "heads", "kv_heads")
        _require_positive(owner, self, "head_dim", "mlp_width", "norm_epsilon", "rope_theta")
        _require_positive(owner, self, "max_positions")
        _require(
            self.extra_vocab_size >= len(SPECIAL_TOKENS),
            f"{owner}.extra_vocab_size is {self.extra_vocab_size}, but {len(SPECIAL_TOKENS)} "
            "visual tokens need a row each; raise it",
        )
        _require(
            self.heads % self.kv_heads == 0,
            f"{owner}.heads is {self.heads}, no multiple of {owner}.kv_heads={self.kv_heads}; "
            "every key head serves the same number of query heads",
        )
        _require(
            self.head_dim % 2 == 0,
            f"{owner}.head_dim is {self.head_dim}; rotary embedding needs an even number",
        )
        for name in ("residual_dropout", "response_residual_dropout"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"{owner}.{name} is {value}; use 0 to below 1")
        for layer in self.yarn.layers if self.yarn else ():
            _require(
                0 <= layer < self.layers,
                f"{owner}.yarn.layers has {layer}, but there are only {self.layers} layers; "
                f"choose from 0 to {self.layers - 1}",
            )

    def special_token(self, name: str) -> int:
        """Id of one of `SPECIAL_TOKENS`."""
        return self.vocab_size + SPECIAL_TOKENS.index(name)


@dataclass(frozen=True)
class ModelConfig:
    """The whole video language model."""

    vit: VitConfig = field(default_factory=VitConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    compute_dtype: ComputeDtype = "auto"
    remat: Literal["none", "blocks"] = "blocks"

    def __post_init__(self) -> None:
        prune, vit = self.prune, self.vit
        _require(
            prune.pooling <= vit.grid,
            f"model.prune.pooling is {prune.pooling}, wider than the grid of {vit.grid} x "
            f"{vit.grid} patches; use at most {vit.grid}",
        )
        _require(
            vit.grid % prune.pooling == 0,
            f"model.prune.pooling is {prune.pooling}, which doesn't fit the grid of {vit.grid} x "
            f"{vit.grid} patches; choose a divisor of {vit.grid}, or another model.vit.image_size",
        )
        blocks_after = prune.last_dense_layer - prune.prune_at
        most = vit.depth - 1 - blocks_after
        remedy = f"use at most {most}" if most >= 0 else "use a deeper feature layer"
        _require(
            prune.method == "none" or prune.prune_at <= most,
            f"model.prune.prune_at is {prune.prune_at}, but the ViT has only {vit.depth} blocks "
            f"and method '{prune.method}' needs block {prune.last_dense_layer}; {remedy}",
        )

    @property
    def tokens_per_frame(self) -> int:
        """P, pooled tokens of one video frame."""
        return math.ceil(self.vit.grid / self.prune.pooling) ** 2


@dataclass(frozen=True)
class DataConfig:
    """What is read and how rows are made of it.

    Attributes:
      train, validation, test: JSONL files, see README "Your own data". `synthetic` stands for the
        embedded procedural set, `synthetic_pictures` for its pictures.
      tokenizer: `tiny` for the embedded one, or the path of a `tokenizer.json`.
      max_frames: frames sampled from a video, at most.
      fps: frames per second that are sampled where the video is short enough.
      row_frames, row_examples, row_text_tokens: what one row holds; the visual tokens that
        survive the prune come on top of the text tokens.
      batch_rows: rows in a batch, over all devices.
      questions_per_video: at most that many questions share one video in a row.
      topk: if given, must equal model.prune.topk; the reference states the ratio twice.
      workers: processes that decode; 0 decodes in the main process.
      cache_frames: keep decoded frames in memory (small sets only).
      max_bad_share: the run stops when more than this share of the examples cannot be read.
    """

    train: str = "synthetic"
    validation: str = "synthetic"
    test: str = "synthetic"
    tokenizer: str = "tiny"
    max_frames: int = 64
    fps: float = 2.0
    row_frames: int = 64
    row_examples: int = 1
    row_text_tokens: int = 2048
    batch_rows: int = 8
    questions_per_video: int = 8
    topk: float | None = None
    seed: int = 0
    workers: int = 0
    cache_frames: bool = False
    max_bad_share: float = 0.1

    def __post_init__(self) -> None:
        _require_positive("data", self, "max_frames", "fps", "row_frames", "row_examples")
        _require_positive("data", self, "row_text_tokens", "batch_rows", "questions_per_video")
        _require(
            self.max_frames <= self.row_frames,
            f"data.max_frames is {self.max_frames}, more than the data.row_frames="
            f"{self.row_frames} that a row holds; lower the one or raise the other",
        )
        _require(self.workers >= 0, f"data.workers is {self.workers}; use 0 or more")
        _require(
            0.0 <= self.max_bad_share <= 1.0,
            f"data.max_bad_share is {self.max_bad_share}; it is a share, from 0 to 1",
        )


@dataclass(frozen=True)
class GroupConfig:
    """Learning rate and linear warm-up (in steps) of one group of parameters."""

    learning_rate: float
    warmup: int = 200

    def __post_init__(self) -> None:
        _require(self.learning_rate >= 0, f"learning_rate is {self.learning_rate}; use 0 or more")
        _require(self.warmup >= 0, f"warmup is {self.warmup} steps; use 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation (the paper's recipe: PEERS 1.7, MODEL 5.1).

    Attributes:
      optimizer: `adamw`, as the paper, or `muon`, which learns the tiny model in far fewer steps;
        it orthogonalises the updates of the kernels and leaves all else to Adam.
      beta1, beta2, epsilon: of Adam; with `muon`, beta2 is also the decay of its momentum.
      final_learning_rate: share of the peak at which the cosine ends.
      clip: the gradient of each group is scaled to at most this norm.
      z_loss: weight of the squared log-partition term.
      freeze_base_embedding: leave the base embedding (and a tied head) as it was.
      log_every, evaluate_every, save_every: steps; 0 turns the thing off.
      evaluate_examples: examples of the validation set used in the loop.
      keep_checkpoints: that many of the newest are kept.
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
    z_loss: float = 1e-4
    freeze_base_embedding: bool = False
    log_every: int = 10
    evaluate_every: int = 1000
    evaluate_examples: int = 256
    save_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _require_positive("train", self, "steps", "clip", "epsilon", "keep_checkpoints")
        for name in ("log_every", "evaluate_every", "save_every", "evaluate_examples"):
            value = getattr(self, name)
            _require(value >= 0, f"train.{name} is {value}; use 0 (off) or more")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"train.{name} is {value}; use 0 to below 1")
        _require(
            0.0 <= self.final_learning_rate <= 1.0,
            f"train.final_learning_rate is {self.final_learning_rate}; it is a share of the peak",
        )


@dataclass(frozen=True)
class EvalConfig:
    """Answering: greedy unless `temperature` is above 0."""

    batch_rows: int = 8
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("eval", self, "batch_rows", "max_new_tokens")
        _require(self.temperature >= 0, f"eval.temperature is {self.temperature}; use 0 or more")
        _require(self.top_k >= 0, f"eval.top_k is {self.top_k}; use 0 (off) or more")
        _require(0.0 < self.top_p <= 1.0, f"eval.top_p is {self.top_p}; use above 0, to 1")


@dataclass(frozen=True)
class Config:
    """Everything a run needs. Saved as `config.json` beside every output."""

    name: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        _require(
            self.data.topk is None or self.data.topk == self.model.prune.topk,
            f"data.topk is {self.data.topk} but model.prune.topk is {self.model.prune.topk}; "
            "rows are packed for the tokens that the model keeps, so set both alike or only "
            "model.prune.topk",
        )

    def save(self, folder: Path) -> None:
        """Write `config.json`, complete and readable by `load_config`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


# ------------------------------------------------------------------------------ reading and merging

T = TypeVar("T")


def config_names() -> list[str]:
    """Names of the shipped setups."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.toml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Read a shipped setup by name, or a .toml or .json file by path, and apply overrides.

    Args:
      name: for example `tiny`, `my_setup.toml`, or the `config.json` of an earlier run.
      overrides: `section.key=value` strings, applied in order.
    """
    values = dataclasses.asdict(Config())
    _merge(values, _read(name))
    return _overridden(values, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with `section.key=value` strings applied in order, checked again."""
    return _overridden(dataclasses.asdict(config), overrides)


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> Config:
    for item in overrides:
        key, separator, text = item.partition("=")
        _require(bool(separator), f"override '{item}' has no '='; write section.key=value")
        _merge(values, _nest(key.strip(), _parse_value(text.strip())))
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested plain values, refusing unknown keys and wrong types."""
    return _build(Config, values, "")


def replace(config: T, overrides: Mapping[str, Any]) -> T:
    """A copy of `config` with dotted keys replaced, checked again: `{"prune.topk": 0.3}`."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    for key, value in overrides.items():
        _merge(values, _nest(key, value))
    return _build(type(config), values, "")


def _read(name: str, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        path = CONFIG_DIR / f"{name}.toml"
        _require(
            path.is_file(),
            f"there is no config named '{name}'; choose from {', '.join(config_names())}, or give "
            "the path of a .toml or .json file",
        )
    _require(path.is_file(), f"config file '{path}' does not exist; check the path")
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError) as error:
        raise ConfigError(f"config file '{path}' cannot be read: {error}; mend it") from error
    _require(isinstance(values, dict), f"config file '{path}' holds no table; mend it")
    base = values.pop("base", None)
    if base is None:
        return values
    _require(isinstance(base, str), f"base in '{path}' is {base!r}; name a config or a file")
    readers = (*readers, path.resolve())
    named = str(path.parent / base) if base.endswith((".toml", ".json")) else base
    _require(
        (CONFIG_DIR / f"{named}.toml").resolve() not in readers
        and Path(named).resolve() not in readers,
        f"config file '{path}' has itself as its base; name another one",
    )
    merged = _read(named, readers)
    _merge(merged, values)
    return merged


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _parse_value(text: str) -> Any:
    """A TOML value; what is no TOML value is taken as a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(cls: type[T], values: Any, path: str) -> T:
    where = path or "the config"
    _require(isinstance(values, Mapping), f"{where} is {values!r}; it must be a table of settings")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            full = f"{path}.{key}" if path else str(key)
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting '{full}'; {hint}")
    arguments = {
        key: _convert(hints[key], value, f"{path}.{key}" if path else key)
        for key, value in values.items()
    }
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        _require(not required or name in arguments, f"{where} lacks '{name}'; set it")
    try:
        return cls(**arguments)
    except ConfigError as error:
        if path and not str(error).startswith(("model.", "data.", "train.", "eval.")):
            raise ConfigError(f"{path}: {error}") from None
        raise


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value in (None, "none", "null", "None"):
            _require(type(None) in args, f"{path} is empty; set it")
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    if origin is Literal:
        _require(value in args, f"{path} is {value!r}; choose from {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{path} is {value!r}; it must be a list, [1, 2]")
        return tuple(_convert(args[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    correct = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _require(correct, f"{path} is {value!r}; it must be of type {hint.__name__}")
    if hint is float:
        _require(math.isfinite(value), f"{path} is {value}; it must be a finite number")
    return value
