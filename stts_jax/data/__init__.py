"""Data: from video files and questions to rows of arrays. NumPy only."""
