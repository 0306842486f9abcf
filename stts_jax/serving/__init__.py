"""Serves a model over HTTP, with a page to look at what is kept (docs/serving.md)."""
