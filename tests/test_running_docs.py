"""The commands of docs/running.md are of settings and flags that there are."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from goldens_folder import REPOSITORY

import train
from stts_jax.config import load_config

TEXT = (REPOSITORY / "docs" / "running.md").read_text()


def shell_commands() -> list[list[str]]:
    """Arguments of every train.py that a shell is given, without what is around it."""
    joined = TEXT.replace("\\\n", " ")
    found = re.findall(r"train\.py (--[^\n`&]*)", joined)
    return [shlex.split(text.strip().removesuffix('"')) for text in found]


def manifests() -> list[dict]:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    return list(yaml.safe_load_all(block))


def pod() -> dict:
    job = next(m for m in manifests() if m["kind"] == "Job")
    return job["spec"]["template"]["spec"]


def pod_command() -> list[str]:
    return pod()["containers"][0]["command"][2:]


@pytest.mark.parametrize("arguments", [*shell_commands(), pod_command()], ids=" ".join)
def test_a_command_has_flags_and_settings_that_there_are(arguments) -> None:
    options = train.parse(arguments)
    load_config(options.config, options.overrides)


def test_every_place_has_its_command() -> None:
    assert len(shell_commands()) == 5  # laptop, one box, Slurm, TPU slice, two processes


def test_pods_find_each_other() -> None:
    job = next(m for m in manifests() if m["kind"] == "Job")
    service = next(m for m in manifests() if m["kind"] == "Service")
    name, count = job["metadata"]["name"], job["spec"]["completions"]
    environment = {e["name"]: e for e in pod()["containers"][0]["env"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    host = f"{name}-0.{service['metadata']['name']}"
    assert pod()["subdomain"] == service["metadata"]["name"]
    assert environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")[0] == host
    assert (
        environment["JAX_NUM_PROCESSES"]["value"] == str(count) == str(job["spec"]["parallelism"])
    )
    assert job["spec"]["completionMode"] == "Indexed" and "JAX_PROCESS_ID" in environment
