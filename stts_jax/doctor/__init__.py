"""Checks and times the kernels of this machine's device: `stts doctor`."""
