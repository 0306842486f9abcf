"""What an installed copy of the package holds beside its modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from goldens_folder import REPOSITORY

from stts_jax.config import config_names

PARTS = ("stts_jax", "convert", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
USE = "from stts_jax import config; print(config.__file__, *config.config_names())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a wheel is unpacked in; pip fetches what builds it."""
    source, wheels, folder = (tmp_path_factory.mktemp(n) for n in ("source", "wheels", "installed"))
    for name in PARTS:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_the_setups_are_installed_with_the_package(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", USE]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    place, *names = found.stdout.split()
    assert Path(place).is_relative_to(installed)
    assert names == config_names()


@pytest.mark.slow
def test_nothing_but_the_two_packages_is_installed(installed):
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"stts_jax", "convert"}
