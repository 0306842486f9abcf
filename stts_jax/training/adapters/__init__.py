"""Training of a part of a model: low-rank adapters, and a base that is frozen."""
