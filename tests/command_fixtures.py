"""The checkpoint and the videos that the tests of commands share; a plugin of these files."""

from __future__ import annotations

from pathlib import Path

import pytest
from arbitrary_models import arbitrary_model
from command_cases import FRAMES, TOKENS_PER_FRAME
from training_cases import small_config

from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.training.checkpointing.load import save_model


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "synthetic"
    return ensure_synthetic(folder, videos=3, seed=0, progress=False)


@pytest.fixture(scope="session")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with an untrained model."""
    config = small_config(
        "model.vit.patch_size=8",
        "model.prune.pooling=2",
        "model.llm.vocab_size=512",
        "eval.batch_rows=4",
        "eval.max_new_tokens=3",
        *(f"data.{split}={data}/{split}.jsonl" for split in ("train", "validation", "test")),
    )
    assert (config.data.max_frames, config.model.tokens_per_frame) == (FRAMES, TOKENS_PER_FRAME)
    model = arbitrary_model(config.model)
    folder = tmp_path_factory.mktemp("commands") / "run"
    save_model(model, config, folder)
    return folder


@pytest.fixture(scope="session")
def video(data: Path) -> Path:
    return next(iter(sorted((data / "test").glob("*.mp4"))))
