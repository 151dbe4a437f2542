"""The example `state-backends` on a cluster: how one of its manifests is put there, and what it has written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from example_modules import EXAMPLES

from cluster_job import ClusterJob
from cluster_s3 import give_s3_keys

_EXAMPLE: Final = EXAMPLES / "state-backends"


@dataclass(frozen=True)
class StateBackendJob(ClusterJob):
    """One of the example's jobs in a namespace of a cluster; with `.yaml`, its name is that of its manifest."""

    def apply(self, storage: dict[str, Any], args: dict[str, Any]) -> None:
        """Apply the manifest, with what it needs, as the example's README does.

        Args:
            storage: Laid over `spec.checkpoint.storage`: servers are not the same everywhere.
            args: Laid over `spec.program.args`.
        """
        self.kubectl("create", "configmap", "accounts", f"--from-file={_EXAMPLE / 'accounts.py'}")
        self.kubectl("apply", f"--filename={_EXAMPLE / 'claims.yaml'}")
        give_s3_keys(self)
        manifest = yaml.safe_load((_EXAMPLE / f"{self.name}.yaml").read_text())
        manifest["spec"]["checkpoint"]["storage"] |= storage
        manifest["spec"]["program"]["args"] |= args
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(manifest))

    @cached_property
    def output(self) -> Path:
        """The folder with the statements, as this computer sees it."""
        return self.volume("results") / self.name

    def rows(self) -> list[dict[str, Any]]:
        """All that was written."""
        files = sorted(self.output.glob("*.jsonl"))
        return [json.loads(row) for file in files for row in file.read_text().splitlines()]
