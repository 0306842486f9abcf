"""Times one block of the ViT and of the LLM, pruned and unpruned, against the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.bench.race import race, speedup
from stts_jax.doctor.device import compiled
from stts_jax.doctor.drawn import drawn_patches, filled, normal, video_tokens
from stts_jax.doctor.kernels import LIMITS
from stts_jax.doctor.reference import distance
from stts_jax.doctor.results import Check, Outcome
from stts_jax.doctor.sizes import Sizes
from stts_jax.layers.attention_mask import attention_mask
from stts_jax.model.llm import LanguageModel
from stts_jax.model.vit import VisionTransformer
from stts_jax.parallel.platform import row_length
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.stream import stream_layout, stream_size
from stts_jax.training.flops import attention_flops, llm_token_flops, vit_token_flops

PASSES = ("forward", "with gradients")
# The LLM's vocabulary has no part in its blocks.
_WORDS = 256


@dataclass(frozen=True)
class Program:
    """A block on one set of tokens.

    Attributes:
      run: of a block's parameters and the others.
      arguments: of `run`; the first two have a gradient.
      flops: of the forward pass, as few as the mathematics needs.
    """

    run: Callable[..., jax.Array]
    arguments: tuple[Any, ...]
    flops: float


Make = Callable[[Sizes, jnp.dtype], dict[str, Program]]


def block_checks(sizes: Sizes, dtype: jnp.dtype) -> list[Check]:
    """Returns the checks of both kinds of block, and of a stream from which nothing is dropped."""
    dropped = f"{sizes.model.prune.topk:.0%} dropped"

    def check(what: str, make: Make, mode: str) -> Check:
        name = f"block of the {what}, {mode}"
        return Check(name, "block", lambda: _timed(make(sizes, dtype), mode, sizes, dtype, dropped))

    checks = [
        check(what, make, mode)
        for mode in PASSES
        for what, make in (("ViT", vit_programs), ("LLM", llm_programs))
    ]
    same = Check("stream of the whole video", "block", lambda: _same_as_dense(sizes, dtype))
    return [same, *checks]


def _timed(
    programs: Mapping[str, Program], mode: str, sizes: Sizes, dtype: jnp.dtype, dropped: str
) -> Outcome:
    """Times programs in turns, each against the first, which is unpruned."""
    runs = {name: _runnable(program, mode) for name, program in programs.items()}
    for run in runs.values():
        run()
    times = race(runs, sizes.rounds)
    first = next(iter(programs))
    factor = 1 if mode == PASSES[0] else 3
    found = {}
    for name, program in programs.items():
        flops, seconds = factor * program.flops, times[name].median()
        ideal = programs[first].flops / program.flops
        measured = speedup(times[first], times[name])
        found[name] = {
            "run_seconds": seconds,
            "gflops": flops / 1e9,
            "tflops_per_second": flops / seconds / 1e12,
            "ideal": ideal,
            "measured": measured,
            "share_of_ideal": measured / ideal,
        }
    return Outcome({"pass": mode, "dtype": dtype.name, "dropped": dropped, "programs": found})


def _runnable(program: Program, mode: str) -> Callable[[], None]:
    function = compiled(function_of(program, mode))

    def run() -> None:
        jax.block_until_ready(function(*program.arguments))

    return run


def function_of(program: Program, mode: str) -> Callable[..., Any]:
    """Returns the function of a program's arguments that is timed in one of `PASSES`."""
    if mode == PASSES[0]:
        return program.run

    def gradients(block: Any, x: jax.Array, *rest: Any) -> Any:
        out, pull = jax.vjp(lambda block, x: program.run(block, x, *rest), block, x)
        # A gradient that depends on the output, or parts of the forward pass could be left out.
        return pull(out)

    return gradients


def _vit(sizes: Sizes, dtype: jnp.dtype) -> VisionTransformer:
    config = replace(sizes.model.vit, layers=1, feature_layers=(-1,))
    return filled(lambda: VisionTransformer(config, key=jax.random.key(0)), dtype)


def _run_vit(vit: VisionTransformer, x: jax.Array, layout: Any) -> jax.Array:
    return vit.run(x, 0, 1, layout, remat=False)[0]


@cache
def vit_programs(sizes: Sizes, dtype: jnp.dtype) -> dict[str, Program]:
    """Returns a block of the ViT on whole frames, on a stream of them, and on a pruned stream."""
    vit, config = _vit(sizes, dtype), sizes.model.vit
    shape = (1, sizes.frames, config.patches, config.width)
    (x,) = normal(1, shape, dtype=dtype)
    whole = np.full(sizes.frames, config.patches)
    programs = {"all frames": Program(_run_vit, (vit, x, DenseLayout()), _vit_flops(sizes, whole))}
    for name, dropped in (("stream, 0% dropped", 0.0), (_dropped_name(sizes), None)):
        keep = _kept(sizes, dropped)
        layout = _layout(keep)
        stream = jax.jit(lambda layout, x: layout.gather(x))(layout, x)
        programs[name] = Program(
            _run_vit, (vit, stream, layout), _vit_flops(sizes, keep[0].sum(-1))
        )
    return programs


def _dropped_name(sizes: Sizes) -> str:
    return f"stream, {sizes.model.prune.topk:.0%} dropped"


def _kept(sizes: Sizes, dropped: float | None = None) -> np.ndarray:
    prune, grid = sizes.model.prune, sizes.model.vit.grid
    dropped = prune.topk if dropped is None else dropped
    return drawn_patches(1, sizes.frames, grid, prune.pooling, dropped)


def _layout(keep: np.ndarray) -> Any:
    size = stream_size(int(keep.sum()))
    return jax.jit(lambda keep: stream_layout(keep, size))(jnp.asarray(keep))


def _vit_flops(sizes: Sizes, counts: np.ndarray) -> float:
    """Returns the FLOPs of a block on frames of so many patches, each seeing its own frame."""
    vit = sizes.model.vit
    pairs = float((counts.astype(float) ** 2).sum())
    return float(counts.sum()) * vit_token_flops(sizes.model) + 4.0 * pairs * (
        vit.heads * vit.head_dim
    )


@cache
def llm_programs(sizes: Sizes, dtype: jnp.dtype) -> dict[str, Program]:
    """Returns a block of the LLM on all tokens, and on those that stay."""
    llm = sizes.model.llm
    config = replace(llm, layers=1, vocab_size=_WORDS, yarn=None)
    model = filled(lambda: LanguageModel(config, key=jax.random.key(0)), dtype)
    budgets = {
        "all tokens": sizes.whole_budget,
        f"{sizes.model.prune.topk:.0%} dropped": sizes.budget,
    }
    programs = {}
    for name, budget in budgets.items():
        length = row_length(budget.tokens)
        table = video_tokens(length, budget.visual, sizes.frames)
        mask = attention_mask(table, table, llm.bidirectional)
        (x,) = normal(2, (1, length, llm.width), dtype=dtype)
        attention = attention_flops(sizes.model, budget)["llm"]
        flops = (budget.tokens * llm_token_flops(sizes.model) + attention) / llm.layers
        programs[name] = Program(_run_llm, (model, x, table.index, mask), flops)
    return programs


def _run_llm(model: LanguageModel, x: jax.Array, positions: jax.Array, mask: Any) -> jax.Array:
    return model(x, positions, mask)


def _same_as_dense(sizes: Sizes, dtype: jnp.dtype) -> Outcome:
    """Compares a block on a stream of all patches with the same block on whole frames."""
    programs = vit_programs(sizes, dtype)
    dense, stream = (programs[name] for name in ("all frames", "stream, 0% dropped"))
    expected = compiled(dense.run)(*dense.arguments)
    out = compiled(stream.run)(*stream.arguments)[:, : expected.shape[1] * expected.shape[2]]
    own = distance(out.reshape(expected.shape), expected)
    # Both round, so they may differ by twice as much as one from the exact result.
    limit = 2 * LIMITS[dtype.name].forward
    values = {"dtype": dtype.name, "errors": {"x": {"row": own.row, "largest": own.largest}}}
    wrong = f"x is off by {own.row:.2g} (at most {limit:g}) from whole frames"
    return Outcome(values | {"limits": {"forward": limit}}, "" if own.row <= limit else wrong)
