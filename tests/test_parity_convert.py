"""Converted checkpoints compute what they did in PyTorch.

The recorded folders (native unsharded, native sharded, Hugging Face, STTS) reproduce their recorded
outputs; tiny random models of transformers' own Molmo2 give the same logits before and after, in
both directions. Everything goes through the real command. What needs torch is marked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from convert_cases import write_hf
from goldens_folder import goldens_dir
from model_cases import small_model_config
from native_arrays import to_native
from reference_cases import exact_budget, load, recorded_batch, visual_features, worst

from convert.__main__ import main
from convert.names import name_table
from stts_jax.batch import VISUAL_FIELDS, Batch
from stts_jax.budget import Budget, MultimodalType
from stts_jax.config import override, replace
from stts_jax.data.text.tokenizer import TINY_FILE, Tokenizer
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.training.checkpointing.load import load_model

LOGITS = 1e-5  # worst measured 1.4e-6
FEATURES = 1e-5  # worst measured 2.7e-6
needs_torch = pytest.mark.parity_torch


def checkpoints() -> list[Any]:
    """The recorded folders in use; those of torch are marked."""
    found = sorted(path.parent for path in (goldens_dir() / "ckpt").glob("*/config.*"))
    if not found:
        raise FileNotFoundError(f"{goldens_dir()} has no ckpt/*/config.*; it is not complete")
    return [
        pytest.param(
            folder, id=folder.name, marks=() if (folder / "config.json").exists() else needs_torch
        )
        for folder in found
        if "stts" not in folder.name
    ]


def recorded(pattern: str) -> list[Path]:
    """Recorded folders of the reference; the small choice in this repository has none."""
    return sorted((goldens_dir() / "ckpt").glob(pattern))


@partial(jax.jit, static_argnums=2)
def logits_of(model: VideoLanguageModel, batch: Batch, budget: Budget) -> jax.Array:
    hidden, _ = model(batch, budget, key=jax.random.key(0))
    return model.llm.logits(hidden)


def text_arrays(ids: np.ndarray) -> dict[str, np.ndarray]:
    """One conversation a row, nothing packed."""
    ids = ids.astype(np.int32)
    return {
        "input_ids": ids,
        "labels": np.full_like(ids, -1),
        "loss_masks": np.zeros(ids.shape, np.float32),
        "position_ids": np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape),
        "subsegment_ids": np.zeros_like(ids),
    }


def run_recorded(model: VideoLanguageModel, case: dict[str, np.ndarray], what: str) -> np.ndarray:
    """Logits of the recorded `video` or `image` inputs."""
    frames = case["images"].shape[1]
    kind = MultimodalType.VIDEO if what == "video" else MultimodalType.IMAGE
    arrays = {
        "images": case["images"],
        "num_images": np.array([[frames]], np.int32),
        "multimodal_type": np.array([[kind]], np.int32),
        "token_pooling": case[f"{what}_token_pooling"].astype(np.int32),
        **text_arrays(case[f"{what}_input_ids"]),
    }
    budget = exact_budget(arrays, model.config)
    return np.asarray(logits_of(model, recorded_batch(arrays), budget))


@pytest.mark.parametrize("folder", checkpoints())
def test_parity_recorded_checkpoints_reproduce_their_logits(
    folder: Path, tmp_path: Path, worst_error: Any
) -> None:
    assert main([str(folder), str(tmp_path / "ours")]) == 0
    model, config = load_model(tmp_path / "ours")
    case = load(goldens_dir() / "ckpt" / "io.npz")
    wanted = [
        (what, name, mode)
        for what in ("video", "image")
        for label, mode in (("logits", "none"), ("logits_bidir", "image_tokens"))
        for system in ("native", "transformers")
        if (name := f"{what}_{label}_{system}") in case
    ]
    assert {mode for _, _, mode in wanted} == {"none", "image_tokens"}
    for what, name, mode in wanted:
        changed = replace(config.model, {"llm.bidirectional": mode})
        found = run_recorded(reconfigure(model, changed), case, what)
        error = worst(found, case[name][..., : found.shape[-1]])
        worst_error.add(f"{folder.name} {name}", "logits", error, LOGITS)
        assert error <= LOGITS


@needs_torch
@pytest.mark.parametrize("folder", recorded("native_*unsharded"), ids=lambda folder: folder.name)
def test_parity_native_to_ours_and_back_is_bit_equal(folder: Path, tmp_path: Path) -> None:
    import torch

    assert main([str(folder), str(tmp_path / "ours")]) == 0
    model, config = load_model(tmp_path / "ours")
    found = to_native(model, name_table(config.model))
    saved = torch.load(folder / "model.pt", weights_only=True)
    assert found.keys() == saved.keys()
    assert all(np.array_equal(found[name], saved[name].numpy()) for name in saved)


@needs_torch
@pytest.mark.parametrize("folder", recorded("native_stts*"), ids=lambda folder: folder.name)
def test_parity_a_recorded_stts_checkpoint_keeps_its_scorer(
    folder: Path, tmp_path: Path, worst_error: Any
) -> None:
    assert main([str(folder), str(tmp_path / "ours")]) == 0
    model, config = load_model(tmp_path / "ours")
    case = load(goldens_dir() / "ckpt" / "io_stts.npz")
    per_frame = config.model.tokens_per_frame
    topk = float(case["cfg_topk"]) * 81 / per_frame
    changed = override(config, [f"model.prune.topk={topk!r}", "model.prune.layout=first_fit"])
    model = reconfigure(model, changed.model)
    arrays = {name: case[name] for name in VISUAL_FIELDS}
    token = config.model.llm.special_token("<im_patch>")
    arrays |= text_arrays(np.full(case["token_pooling"].shape[:2], token))
    budget = exact_budget(arrays, changed.model)
    rows = jax.jit(lambda m, b: m.fuse(b, budget, jax.random.key(0)))(model, recorded_batch(arrays))
    scores = np.asarray(rows.vision.scores).reshape(case["scores"].shape)
    error = worst(scores, case["scores"])
    worst_error.add(folder.name, "scores", error, FEATURES)
    assert error <= FEATURES
    assert (np.asarray(rows.vision.plan.keep).reshape(-1) == case["prunable_valid_mask"]).all()
    error = worst(visual_features(model, rows), case["features"])
    worst_error.add(folder.name, "features", error, FEATURES)
    assert error <= FEATURES


# ------------------------------------------------------------------------- transformers' Molmo2


SIZES: dict[str, Any] = {
    "vit_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "image_default_input_size": [36, 36],
        "image_patch_size": 6,
        "image_num_pos": 36,
    },
    "adapter_config": {
        "vit_layers": [-1, -3],
        "pooling_attention_mask": True,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 40,
        "text_hidden_size": 24,
        "hidden_act": "silu",
    },
    "text_config": {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "additional_vocab_size": 16,
        "intermediate_size": 40,
        "hidden_act": "silu",
        "qkv_bias": False,
        "use_qk_norm": True,
        "qk_norm_type": "qwen3",
        "layer_norm_eps": 1e-6,
        "norm_after": False,
        "max_position_embeddings": 256,
        "rope_theta": 1e4,
    },
}
FORMS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "olmo3": {
        "qk_norm_type": "olmo",
        "norm_after": True,
        "num_key_value_heads": 4,
        "rope_scaling_layers": [1],
        "rope_scaling": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "attention_factor": 1.2,
        },
    },
}
FRAMES, TOKENS = 2, 30


@cache
def torch_model(form: str) -> Any:
    """A random Molmo2 of transformers; biases and norms too, so that all of it counts."""
    import torch
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    torch.manual_seed(0)
    text = SIZES["text_config"] | FORMS[form]
    first = text["vocab_size"]
    config = Molmo2Config(
        **(SIZES | {"text_config": text}),
        image_start_token_id=first,
        image_end_token_id=first + 1,
        image_patch_id=first + 2,
        image_high_res_id=first + 2,
        image_col_id=first + 3,
        low_res_image_start_token_id=first + 4,
        image_low_res_id=first + 6,
        frame_start_token_id=first + 7,
        frame_end_token_id=first + 8,
    )
    model = Molmo2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model


def video_case() -> dict[str, np.ndarray]:
    """A random video of two frames with a question."""
    rng = np.random.default_rng(0)
    pooling = np.arange(36).reshape(2, 3, 2, 3).transpose(0, 2, 1, 3).reshape(4, 9)
    ids = rng.integers(0, 64, (1, TOKENS))
    ids[0, 2:6] = ids[0, 8:12] = 66
    return {
        "images": rng.uniform(-1, 1, (1, FRAMES, 36, 108)).astype(np.float32),
        "video_token_pooling": np.concatenate([pooling, pooling + 36])[None],
        "video_input_ids": ids,
    }


def torch_logits(model: Any, case: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    ids = torch.tensor(case["video_input_ids"])
    with torch.no_grad():
        return model(
            input_ids=ids,
            pixel_values_videos=torch.tensor(case["images"][0]),
            video_token_pooling=torch.tensor(case["video_token_pooling"][0]),
            video_grids=torch.tensor([[FRAMES, 2, 2]]),
            mm_token_type_ids=(ids == 66).long(),
        ).logits.numpy()


SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "released names": lambda model, folder: model.save_pretrained(folder),
    "names of modules": lambda model, folder: model.save_pretrained(
        folder, save_original_format=False
    ),
}


@needs_torch
@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("form", FORMS)
def test_parity_transformers_molmo2_gives_the_same_logits(
    form: str, saver: str, tmp_path: Path, worst_error: Any
) -> None:
    model, case = torch_model(form), video_case()
    SAVERS[saver](model, tmp_path / "hf")
    assert main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    ours, _ = load_model(tmp_path / "ours")
    expected = torch_logits(model, case)[..., : SIZES["text_config"]["vocab_size"]]
    error = worst(run_recorded(ours, case, "video"), expected)
    worst_error.add(f"{form}, {saver}", "logits against transformers", error, LOGITS)
    assert error <= LOGITS


@needs_torch
@pytest.mark.parametrize("form", FORMS)
def test_parity_an_exported_model_loads_in_transformers(form: str, tmp_path: Path) -> None:
    from transformers import Molmo2ForConditionalGeneration

    model, case = torch_model(form), video_case()
    model.save_pretrained(tmp_path / "hf")
    assert main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    assert main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "hf"]) == 0
    back, report = Molmo2ForConditionalGeneration.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (torch_logits(back.eval(), case) == torch_logits(model, case)).all()


@needs_torch
def test_parity_an_exported_folder_loads_by_itself_in_transformers(tmp_path: Path) -> None:
    """AutoProcessor itself needs torchvision as well, which isn't in the extra."""
    from inspect import signature

    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.molmo2.processing_molmo2 import Molmo2Processor

    model = small_model_config(
        llm__vocab_size=512, llm__tied_head=False, prune__method="none", prune__topk=0.0
    )
    source = write_hf(tmp_path / "hf", model)
    (source / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "hf"]) == 0
    back = AutoModelForImageTextToText.from_pretrained(tmp_path / "back")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "back")
    ours = Tokenizer.load("tiny", 512)
    assert type(back).__name__ == "Molmo2ForConditionalGeneration"
    assert back.generation_config.eos_token_id == ours.eos_id == theirs.eos_token_id
    text = "What colour is it at 12.5? <im_patch><im_col><frame_start><|video|>"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    processor = json.loads((tmp_path / "back" / "processor_config.json").read_text())
    parts = {"processor_class"}
    assert processor.keys() - parts <= signature(Molmo2Processor.__init__).parameters.keys()


# ------------------------------------------------------------------------ a start from parts


@needs_torch
def test_parity_start_assembled_from_siglip_and_qwen3(tmp_path: Path) -> None:
    check_start(tmp_path, "qwen3")


@needs_torch
def test_parity_start_assembled_from_siglip_and_olmo3(tmp_path: Path) -> None:
    check_start(tmp_path, "olmo3")


def check_start(tmp_path: Path, form: str) -> None:
    """Both parts give what they gave alone: the tower's features, and the words' logits."""
    import torch
    from transformers import (
        Olmo3Config,
        Olmo3ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(1)
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=36,
            patch_size=6,
        )
    ).eval()
    sizes = {
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if form == "qwen3":
        sizes |= {"head_dim": 6, "tie_word_embeddings": True, "rope_parameters": rope}
        words = Qwen3ForCausalLM(Qwen3Config(**sizes))
    else:
        kinds = {"full_attention": rope, "sliding_attention": rope}
        sizes |= {"layer_types": ["full_attention"] * 2, "rope_parameters": kinds}
        words = Olmo3ForCausalLM(Olmo3Config(**sizes))
    words.eval()
    tower.save_pretrained(tmp_path / "vit")
    words.save_pretrained(tmp_path / "llm")
    config = tmp_path / "start.json"
    config.write_text(json.dumps(start_config(form)))
    target = tmp_path / "ours"
    flags = ["--init", str(tmp_path / "vit"), str(tmp_path / "llm"), str(target)]
    assert main([*flags, "--config", str(config)]) == 0
    model, found = load_model(target)

    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (1, 36, 36, 3)).astype(np.float32)
    patches = pixels.reshape(1, 6, 6, 6, 6, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 1, 36, 108)
    with torch.no_grad():
        hidden = tower(
            torch.tensor(pixels).permute(0, 3, 1, 2), output_hidden_states=True
        ).hidden_states
        ids = rng.integers(0, 64, (1, 12))
        expected = words(torch.tensor(ids)).logits.numpy()
    case = {
        "images": patches,
        "num_images": np.array([[1]]),
        "multimodal_type": np.array([[MultimodalType.VIDEO]]),
        "token_pooling": np.full((1, 4, 9), -1, np.int32),
        **text_arrays(ids),
    }
    budget = exact_budget(case, found.model)
    batch = recorded_batch(case)
    rows = jax.jit(lambda m, b: m.fuse(b, budget, jax.random.key(0)))(model, batch)
    features = np.concatenate([hidden[4].numpy(), hidden[2].numpy()], -1)
    got = np.asarray(rows.vision.features).reshape(1, -1, features.shape[-1])
    assert worst(got, features) <= FEATURES
    assert worst(np.asarray(logits_of(model, batch, budget)), expected) <= LOGITS


def start_config(form: str) -> dict[str, Any]:
    llm = {
        "vocab_size": 64,
        "extra_vocab_size": 16,
        "width": 24,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 6,
        "mlp_width": 40,
        "rope_theta": 1e4,
        "max_positions": 64,
        "tied_head": form == "qwen3",
    }
    if form == "olmo3":
        llm |= {"norm_position": "post", "qk_norm": "full"}
    vit = {
        "image_size": 36,
        "patch_size": 6,
        "width": 32,
        "heads": 2,
        "head_dim": 16,
        "mlp_width": 48,
        "layers": 4,
        "feature_layers": [-1, -3],
        "positions": 36,
    }
    connector = {"heads": 2, "head_dim": 16, "width": 32, "mlp_width": 40}
    prune = {"method": "none", "topk": 0.0}
    return {
        "name": "start",
        "model": {"vit": vit, "connector": connector, "llm": llm, "prune": prune},
    }
