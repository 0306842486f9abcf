"""Attention in plain XLA, for any device."""
