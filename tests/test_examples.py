"""The files that the guide to clusters offers: their syntax, and the commands in them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from restorer.cli.app import app

EXAMPLES = Path(__file__).parents[1] / "docs" / "how-to" / "examples"
GUIDE = (EXAMPLES.parent / "clusters.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The words of every call of `restore denoise` in a text, with lines that go on joined."""
    return [found.split() for found in re.findall(r"restore denoise ([^\n#&|`]*)", text.replace("\\\n", " "))]


def options_of_denoise() -> set[str]:
    command: Any = typer.main.get_command(app)
    return {name for parameter in command.commands["denoise"].params for name in parameter.opts}


def test_every_example_is_in_the_guide() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(re.findall(r"\]\(examples/([^)]+)\)", GUIDE))


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.iterdir())] + ["the guide"])
def test_the_commands_have_only_options_that_exist(name: str) -> None:
    found = commands(GUIDE if name == "the guide" else (EXAMPLES / name).read_text(encoding="utf-8"))
    given = {word.strip("\"'") for words in found for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options_of_denoise()
    assert found or name in ("Containerfile", "cluster.yaml")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_can_be_read_by_the_shell(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert directives and all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in directives)
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")]  # Slurm would pass over it


def test_the_job_of_kubernetes_counts_its_shards() -> None:
    job = yaml.safe_load((EXAMPLES / "shards.kubernetes.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (shell,) = container["args"]
    assert shell.endswith(f'--shard "$((JOB_COMPLETION_INDEX + 1))/{job["spec"]["completions"]}"')
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_the_cluster_has_what_ray_up_needs() -> None:
    cluster = yaml.safe_load((EXAMPLES / "cluster.yaml").read_text(encoding="utf-8"))
    assert {"cluster_name", "provider", "auth", "head_start_ray_commands", "worker_start_ray_commands"} <= set(cluster)
    provider = cluster["provider"]
    assert provider["type"] == "local" and cluster["max_workers"] == len(provider["worker_ips"])
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(cluster))


def test_the_container_file_has_only_known_instructions() -> None:
    text = (EXAMPLES / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "COPY", "RUN", "ENV", "WORKDIR", "CMD"}
    assert {line.split()[0] for line in lines} <= known and lines[0].startswith("FROM python:3.1")
