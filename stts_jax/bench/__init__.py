"""Benchmarks speed against the ideal of the FLOPs: `python -m stts_jax.bench`."""
