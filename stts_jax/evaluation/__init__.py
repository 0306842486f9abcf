"""Answering a split and scoring the answers."""
