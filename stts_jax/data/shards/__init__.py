"""Shards: files of examples with their media inside, written once and read by training."""
