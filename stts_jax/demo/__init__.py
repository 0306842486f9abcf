"""The main job, end to end: train unpruned, fine-tune with pruning, compare, draw."""
