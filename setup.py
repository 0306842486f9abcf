"""Puts configs/ into the package where that is installed; all else is said in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["stts_jax*", "convert*"]), "stts_jax.configs"],
    package_dir={"stts_jax.configs": "configs"},
)
