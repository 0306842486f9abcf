"""Answers many requests at once with one model: continuous batching on static shapes."""
