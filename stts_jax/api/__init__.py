"""The public API, whose names `stts_jax` itself gives; docs/api.md describes it."""
