"""Folders and files in buckets of Google Cloud Storage, named by their addresses."""
