"""Scores a model's text: how each benchmark reads an answer and adds up."""
