"""Adapters of PEFT compute in our model what they do in transformers', and ours do there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_cases import write_adapters
from reference_cases import worst
from test_parity_convert import (
    FORMS,
    LOGITS,
    SIZES,
    run_recorded,
    torch_logits,
    torch_model,
    video_case,
)

from convert.__main__ import main
from stts_jax.training.checkpointing.load import load_model

pytestmark = pytest.mark.parity_torch
VOCABULARY = SIZES["text_config"]["vocab_size"]
# In the LLM, the ViT and the connector; one module has another rank and scale.
MODULES = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "fc1"]


def peft_model(form: str) -> Any:
    """Transformers' model with random adapters."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=MODULES,
        rank_pattern={"gate_proj": 2},
        alpha_pattern={"gate_proj": 6},
    )
    model = get_peft_model(copy.deepcopy(torch_model(form)), settings).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2)
    return model


def converted(form: str, folder: Path) -> Path:
    torch_model(form).save_pretrained(folder / "hf")
    assert main([str(folder / "hf"), str(folder / "base")]) == 0
    return folder / "base"


@pytest.mark.parametrize("form", FORMS)
def test_parity_adapters_of_peft_give_the_same_logits(
    form: str, tmp_path: Path, worst_error: Any
) -> None:
    base, case, theirs = converted(form, tmp_path), video_case(), peft_model(form)
    theirs.save_pretrained(tmp_path / "peft")
    arguments = [str(tmp_path / "peft"), str(tmp_path / "ours"), "--base", str(base)]
    assert main(arguments) == 0
    expected = torch_logits(theirs, case)[..., :VOCABULARY]
    plain = torch_logits(torch_model(form), case)[..., :VOCABULARY]
    error = worst(run_recorded(load_model(tmp_path / "ours")[0], case, "video"), expected)
    worst_error.add(form, "logits with adapters of PEFT", error, LOGITS)
    assert error <= LOGITS < worst(plain, expected)


@pytest.mark.parametrize("form", FORMS)
def test_parity_our_adapters_give_the_same_logits_in_peft(
    form: str, tmp_path: Path, worst_error: Any
) -> None:
    from peft import PeftModel

    base, case = converted(form, tmp_path), video_case()
    targets = 'train.lora.targets=["llm", "vit", "connector"]'
    # Larger scales make a sharper model, whose rounding says nothing about its adapters.
    run = write_adapters(tmp_path / "run", base, targets, "train.lora.alpha=2")
    assert main([str(run), str(tmp_path / "peft"), "--to", "peft"]) == 0
    theirs = PeftModel.from_pretrained(copy.deepcopy(torch_model(form)), tmp_path / "peft").eval()
    found = run_recorded(load_model(run)[0], case, "video")
    error = worst(found, torch_logits(theirs, case)[..., :VOCABULARY])
    worst_error.add(form, "logits of our adapters in PEFT", error, LOGITS)
    assert error <= LOGITS < worst(found, torch_logits(torch_model(form), case)[..., :VOCABULARY])


def test_parity_a_merged_export_gives_the_same_logits(tmp_path: Path, worst_error: Any) -> None:
    from transformers import Molmo2ForConditionalGeneration

    base, case = converted("qwen3", tmp_path), video_case()
    run = write_adapters(tmp_path / "run", base, "train.lora.alpha=2")
    assert main([str(run), str(tmp_path / "merged"), "--to", "hf"]) == 0
    theirs = Molmo2ForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    found = run_recorded(load_model(run)[0], case, "video")
    error = worst(found, torch_logits(theirs, case)[..., :VOCABULARY])
    worst_error.add("qwen3", "logits of a merged export", error, LOGITS)
    assert error <= LOGITS
    assert not np.isnan(found).any()
