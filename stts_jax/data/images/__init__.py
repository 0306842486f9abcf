"""Images: files, crops and their tokens."""
