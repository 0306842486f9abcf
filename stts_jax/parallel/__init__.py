"""Logical axis names, meshes and placement of arrays."""
