"""Efficient video understanding in JAX: score video tokens inside the ViT, drop the rest."""
