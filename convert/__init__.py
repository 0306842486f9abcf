"""Checkpoints in and out: names, layouts and configurations of the PyTorch reference."""
