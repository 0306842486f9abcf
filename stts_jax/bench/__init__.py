"""How fast, against how fast the arithmetic allows: `python -m stts_jax.bench`."""
