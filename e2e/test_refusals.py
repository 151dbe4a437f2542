"""Wrong manifests: the API server refuses them, in the words of the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spec_samples import manifest

from cluster.cluster import Cluster
from cluster.commands import CommandError

WRONG: dict[str, dict[str, Any]] = {
    "no worker": {"spec.parallelism": 0},
    "more workers than key groups": {"spec.parallelism": 200},
    "too many key groups": {"spec.maxParallelism": 32769},
    "an entrypoint that is a file": {"spec.program.entrypoint": "flights.py"},
    "code in two places": {"spec.program.configMap": "code", "spec.program.inline": {"x.py": ""}},
    "an interval without a unit": {"spec.checkpoint.interval": "10"},
    "a size with another unit": {"spec.stateBackend.rocksdb.memory": "512MB"},
    "a storage that is none": {"spec.checkpoint.storage.uri": "file://data"},
    "options of another storage": {"spec.checkpoint.storage.s3": {"region": "eu"}},
    "a name with a dot": {"metadata.name": "f1.8"},
}
COMMAND = Path(sys.executable).with_name("checkdam")


def validated(file: Path) -> subprocess.CompletedProcess[str]:
    """What the command line makes of a manifest."""
    return subprocess.run([COMMAND, "validate", "--no-build", file], capture_output=True, text=True)


def said_by_the_command_line(file: Path) -> list[str]:
    """What is wrong with a manifest, a sentence each."""
    done = validated(file)
    assert done.returncode == 2
    return re.findall(r"^  - (.*)$", done.stderr, re.MULTILINE)


def test_a_manifest_that_is_wrong_in_ten_ways_is_refused_in_the_words_of_the_command_line(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    where, file = f"--namespace={namespace}", tmp_path / "job.yaml"
    for what, fields in WRONG.items():
        file.write_text(json.dumps(manifest(fields)))
        with pytest.raises(CommandError) as refused:
            checkdam.plane.kubectl("apply", where, f"--filename={file}")
        sentences = said_by_the_command_line(file)
        assert sentences, what
        for sentence in sentences:
            assert sentence in str(refused.value), what
    assert checkdam.plane.kubectl("get", "streamjobs", where, "--output=name") == ""


def test_the_manifest_that_they_are_made_from_is_taken(checkdam: Cluster, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(manifest()))
    assert validated(file).returncode == 0
    answer = checkdam.plane.kubectl("apply", f"--namespace={namespace}", "--dry-run=server", f"--filename={file}")
    assert answer == "streamjob.checkdam.dev/flight-delays created (server dry run)\n"
