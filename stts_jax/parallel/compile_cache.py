"""Keeps compiled programs in a folder, for the next process that needs them."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from stts_jax.buckets.address import is_address, path_of


def keep_compiled_code() -> None:
    """Caches compiled programs; JAX_COMPILATION_CACHE_DIR chooses a folder, also in a bucket.

    Raises:
      BucketError: if that is an address that can't be opened.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen is not None and is_address(chosen):
        path_of(chosen).exists()  # says what is wrong with it; JAX would go on without a word
    elif chosen is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "stts_jax" / "compiled"))
