"""Checks of datasets: annotations, files, and whether examples fit a row."""
