"""Datasets in their published form: one short class each, found by name."""
