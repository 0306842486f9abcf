"""The largest value of every numeric setting.

Far above what anybody trains, and low enough that products of them overflow nothing: what is
beyond is a slip or an attack, and would end in an overflow or in all of the machine's memory.
What several settings take together is checked where their sizes are known.
"""

from __future__ import annotations

# Of a seed: what a signed integer of 64 bits holds.
LARGEST_SEED = 2**63 - 1
# Entries of a list, and letters of a text.
MOST_ENTRIES = 4096
MOST_LETTERS = 4096
# A float32 holds it, and its square.
_LARGE = 1e18
_STEPS = 10**9

MAXIMA: dict[str, dict[str, float]] = {
    "model.vit": {
        "image_size": 16384,
        "patch_size": 1024,
        "width": 2**16,
        "heads": 1024,
        "head_dim": 4096,
        "mlp_width": 2**20,
        "layers": 1024,
        "feature_layers": 1024,
        "positions": 2**20,
        "norm_epsilon": 1.0,
    },
    "model.prune": {
        "topk": 100,
        "train_ratios": 100,
        "train_ratio_weights": 1e6,
        "threshold": 100,
        "prune_at": 1024,
        "pooling": 1024,
        "prune_from_frame": 2**20,
        "rescale_bias_min": 100,
        "loss_coefficient": 1e6,
        "new_reference_threshold": 100,
    },
    "model.connector": {
        "heads": 1024,
        "head_dim": 4096,
        "width": 2**16,
        "mlp_width": 2**20,
        "image_pooling": 1024,
    },
    "model.llm": {
        "vocab_size": 2**24,
        "extra_vocab_size": 2**20,
        "width": 2**17,
        "layers": 1024,
        "heads": 4096,
        "kv_heads": 4096,
        "head_dim": 4096,
        "mlp_width": 2**21,
        "norm_epsilon": 1.0,
        "rope_theta": 1e12,
        "max_positions": 2**26,
        "residual_dropout": 100,
        "response_residual_dropout": 100,
    },
    "model.llm.yarn": {
        "layers": 1024,
        "factor": 1e6,
        "original_length": 2**26,
        "beta_fast": 1e6,
        "beta_slow": 1e6,
        "attention_factor": 1e6,
    },
    "data": {
        "max_frames": 2**17,
        "fps": 1000,
        "max_crops": 1024,
        "max_images": 4096,
        "row_frames": 2**17,
        "row_examples": 2**16,
        "row_text_tokens": 2**22,
        "batch_rows": 2**20,
        "questions_per_video": 2**16,
        "topk": 100,
        "seed": LARGEST_SEED,
        "workers": 1024,
        "max_bad_share": 100,
    },
    "train": {
        "steps": _STEPS,
        "seed": LARGEST_SEED,
        "final_learning_rate": 100,
        "beta1": 100,
        "beta2": 100,
        "epsilon": _LARGE,
        "weight_decay": 1e6,
        "clip": _LARGE,
        "accumulate": 2**20,
        "z_loss": 1e6,
        "log_every": _STEPS,
        "evaluate_every": _STEPS,
        "evaluate_examples": _STEPS,
        "save_every": _STEPS,
        "keep_checkpoints": 10**6,
        "skip_loss_spikes": 1e6,
        "profile": _STEPS,
    },
    "train.distill": {"share": 100, "max_weight": 1e6},
    "train.lora": {"rank": 2**14, "alpha": 1e6, "dropout": 100},
    "train group": {"learning_rate": 1e6, "warmup": _STEPS},
    "train.mesh": {"data": 2**20, "fsdp": 2**20, "tensor": 2**20, "context": 2**20},
    "eval": {
        "batch_rows": 2**16,
        "max_new_tokens": 2**17,
        "temperature": 1e6,
        "top_k": 2**24,
        "top_p": 100,
    },
}
