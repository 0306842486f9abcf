"""From a model's text to a score: how each benchmark reads an answer and adds up."""
