"""Sources of examples: users' own files, and what a config names."""
