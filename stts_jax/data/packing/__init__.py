"""Packing: which examples share a row, and how rows are laid out."""
