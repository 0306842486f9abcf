"""The paper: scoring tokens, selecting the ones to keep, packing them, the temporal loss."""
