"""What the recipe of the demo is made of, one thing changed at a time."""

from __future__ import annotations

from stts_jax.demo.plan import STTS, UNPRUNED, WITHOUT_LOSS, Method, Plan


def _changed(name: str, label: str, override: str) -> Method:
    return Method(name, label, (*STTS.overrides, override))


def _drawn(name: str, label: str, weights: tuple[float, ...]) -> Method:
    return _changed(name, label, f"model.prune.train_ratio_weights={list(weights)}")


ABLATIONS = (
    STTS,
    _drawn("ends", "0 and 80 % drawn twice as often", (2.0, 1.0, 1.0, 1.0, 2.0)),
    _drawn("high", "70 and 80 % drawn three times as often", (1.0, 1.0, 1.0, 3.0, 3.0)),
    _changed(
        "distilled", "KL to the unpruned model", f"train.distill.teacher={{parts}}/{UNPRUNED}"
    ),
    _changed("self_distilled", "KL to itself at 0 %", "train.distill.teacher=self"),
    WITHOUT_LOSS,
    # The bias of the lowest score is then log 0.999, and the gradient through it a thousandth.
    _changed("without_bias", "without bias", "model.prune.rescale_bias_min=0.999"),
    _changed("fast_vit", "ViT as fast as the scorer", "train.vit.learning_rate=1e-3"),
    _changed("slow_scorer", "scorer as slow as the ViT", "train.scorer.learning_rate=1e-4"),
)
ABLATED = Plan(methods=ABLATIONS, auto=(), claims=False)
