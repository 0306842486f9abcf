"""The files of an exported Hugging Face folder that its processor and its generation need.

Of an image or a video transformers makes the same tokens as this project with the settings that are
written here; see `convert.hf_processor` for the way back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from convert.tokenizer_files import TOKENIZER, Files
from stts_jax.config import DataConfig, ModelConfig
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.text.tokenizer import (
    CONFIG_FILE,
    END_OF_TURN,
    Tokenizer,
    TokenizerError,
    marks_in,
)

PROCESSOR = "processor_config.json"
GENERATION = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
_PAD = "<|endoftext|>"  # of Qwen3 and OLMo3
_HALF = [0.5, 0.5, 0.5]
_BILINEAR = 2


def export_files(
    tokenizer: Files | None, model: ModelConfig, data: DataConfig
) -> tuple[Files, str]:
    """Texts by name of file, and a sentence on what is to be copied; empty if all is there.

    Args:
      tokenizer: files of the model's tokenizer, if it is known.
      model, data: of the model.
    """
    files = {PROCESSOR: _text(processor_config(model, data))}
    copied = (
        f"copy {TOKENIZER} and {CONFIG_FILE} of a published Molmo2 into the folder to load it with "
        "AutoProcessor"
    )
    if tokenizer is None:
        return files, f"no tokenizer is known; {copied}"
    described = json.loads(tokenizer.get(CONFIG_FILE, "{}"))
    marks = marks_in(described, Path(CONFIG_FILE))
    base = tokenizers.Tokenizer.from_str(tokenizer[TOKENIZER])
    base.no_truncation()
    base.no_padding()
    try:
        known = Tokenizer(base, model.llm.vocab_size, **marks)
    except TokenizerError as error:
        return {**files, **tokenizer}, f"its tokenizer is copied as it is ({error}); {copied}"
    eos = marks.get("eos", END_OF_TURN)
    bos = marks.get("bos", eos)
    pad = _PAD if base.token_to_id(_PAD) is not None else eos
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        **{name: value for name, value in described.items() if value is not None},
        "eos_token": eos,
        "bos_token": bos,
        "processor_class": "Molmo2Processor",
    }
    generation = {
        "bos_token_id": known.bos_id,
        "eos_token_id": known.eos_id,
        "pad_token_id": base.token_to_id(pad),
    }
    template = described.get("chat_template")
    if isinstance(template, str):
        files[CHAT_TEMPLATE] = template  # where processors look for it
    return {
        **files,
        TOKENIZER: base.to_str(),
        CONFIG_FILE: _text(described),
        GENERATION: _text(generation),
    }, ""


def processor_config(model: ModelConfig, data: DataConfig) -> dict[str, Any]:
    """Returns the configuration of transformers' `Molmo2Processor`."""
    vit, images = model.vit, ImageSettings()
    common = {
        "size": {"height": vit.image_size, "width": vit.image_size},
        "patch_size": vit.patch_size,
        "resample": _BILINEAR,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "image_mean": _HALF,
        "image_std": _HALF,
    }
    return {
        "processor_class": "Molmo2Processor",
        "image_use_col_tokens": images.column_tokens,
        "use_single_crop_col_tokens": images.global_column_tokens,
        "use_single_crop_start_token": images.global_start_token,
        "video_use_col_tokens": False,
        "use_frame_special_tokens": data.frame_tokens == "frame",
        "image_processor": {
            "image_processor_type": "Molmo2ImageProcessor",
            **common,
            "max_crops": data.max_crops,
            "overlap_margins": list(images.margins),
            "pooling_size": [model.connector.image_pooling] * 2,
        },
        "video_processor": {
            "video_processor_type": "Molmo2VideoProcessor",
            **common,
            "pooling_size": [model.prune.pooling] * 2,
            "num_frames": data.max_frames,
            "max_fps": data.fps,
            "do_sample_frames": True,
        },
    }


def _text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
