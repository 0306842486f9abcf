"""The commands of docs/running.md are of settings and flags that there are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from goldens_folder import REPOSITORY

import train
from stts_jax.config import load_config
from stts_jax.training.distributed import LOST_PROCESS

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
    # Laptop, adapters of the 4B and of the tiny model, one box, Slurm, TPU slice, two processes.
    assert len(shell_commands()) == 7


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


def job_action(code: int) -> str | None:
    """What the job does about a pod that ends so; None if it counts that and starts another."""
    job = next(m for m in manifests() if m["kind"] == "Job")
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        exits = rule.get("onExitCodes")
        if exits is not None and code in exits["values"]:
            assert exits["operator"] == "In" and exits["containerName"] == "train"
            return rule["action"]
    return None


def test_the_job_starts_again_what_can_succeed_and_nothing_else() -> None:
    # Kubernetes takes a policy for pod failures only with pods that it doesn't restart itself.
    assert pod()["restartPolicy"] == "Never" and pod()["containers"][0]["name"] == "train"
    assert {code: job_action(code) for code in (1, 2, LOST_PROCESS, 134, 137, 143)} == {
        1: None,
        2: "FailJob",
        LOST_PROCESS: "Ignore",  # the pod that went first is counted
        134: None,
        137: None,
        143: "Ignore",
    }


def launch_arguments() -> list[list[str]]:
    """Of the lines that start from a converted checkpoint."""
    return [line for line in [*shell_commands(), pod_command()] if "molmo2_4b" in " ".join(line)]


@pytest.mark.parametrize("arguments", launch_arguments(), ids=" ".join)
def test_a_run_from_a_checkpoint_names_all_data_that_it_reads(arguments) -> None:
    config = load_config((options := train.parse(arguments)).config, options.overrides)
    usual = load_config(options.config).data
    assert config.train.evaluate_every and options.init_from
    assert config.data.train != usual.train and config.data.validation != usual.validation


def run_slurm_script(folder: Path, code: int) -> tuple[int, str]:
    """Exit code of the script where srun ends with `code`, and what scontrol was asked for."""
    (script,) = re.findall(r"```\n(#!/bin/bash\n#SBATCH.*?)```", TEXT, re.DOTALL)
    asked = folder / "asked"
    asked.write_text("")
    for name, line in {"srun": f"exit {code}", "scontrol": f'echo "$@" >> {asked}'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], env={"PATH": path, "SLURM_JOB_ID": "7"})
    return done.returncode, asked.read_text()


def test_the_slurm_script_starts_again_what_was_told_to_stop_and_nothing_else(tmp_path) -> None:
    assert run_slurm_script(tmp_path, 143) == (143, "requeue 7\n")
    for code in (0, 1, 2, 130):
        assert run_slurm_script(tmp_path, code) == (code, "")
