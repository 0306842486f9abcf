"""Videos: files, frames that are sampled, and their tokens."""
