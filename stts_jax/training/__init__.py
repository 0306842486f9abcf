"""Optimisation: parameter groups, loss and step, checkpoints, the loop."""
