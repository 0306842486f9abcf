"""Keeps compiled programs on disk, for the next process that needs them."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def keep_compiled_code() -> None:
    """Caches compiled programs on disk; JAX_COMPILATION_CACHE_DIR chooses the folder."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "stts_jax" / "compiled"))
