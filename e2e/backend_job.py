"""The example `state-backends` on a cluster: how one of its manifests is put there, and whether its output is what it must be."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cluster.cluster import S3_ACCESS_KEY, S3_SECRET_KEY, Cluster

_EXAMPLE: Final = Path(__file__).resolve().parents[1] / "examples" / "state-backends"


@dataclass(frozen=True)
class StateBackendJob:
    """One of the example's jobs in a namespace of a cluster.

    Attributes:
        name: Of the job and, with `.yaml`, of its manifest.
    """

    cluster: Cluster
    namespace: str
    name: str

    def apply(self, storage: dict[str, Any], args: dict[str, Any]) -> None:
        """Apply the manifest, with what it needs, as the example's README does.

        Args:
            storage: Laid over `spec.checkpoint.storage`: servers are not the same everywhere.
            args: Laid over `spec.program.args`.
        """
        self.kubectl("create", "configmap", "accounts", f"--from-file={_EXAMPLE / 'accounts.py'}")
        self.kubectl("apply", f"--filename={_EXAMPLE / 'claims.yaml'}")
        keys = {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY}
        literals = (f"--from-literal={name}={value}" for name, value in keys.items())
        self.kubectl("create", "secret", "generic", "s3-keys", *literals)
        manifest = yaml.safe_load((_EXAMPLE / f"{self.name}.yaml").read_text())
        manifest["spec"]["checkpoint"]["storage"] |= storage
        manifest["spec"]["program"]["args"] |= args
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(manifest))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints in the namespace.

        Raises:
            CommandError: It failed.
        """
        return self.cluster.plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def wait(self, condition: str) -> None:
        """Wait with `kubectl wait`.

        Raises:
            CommandError: It did not come to that.
        """
        self.kubectl("wait", f"streamjob/{self.name}", f"--for={condition}", "--timeout=120s")

    def status(self) -> dict[str, Any]:
        """Its status, as the API server has it."""
        found = json.loads(self.kubectl("get", "streamjob", self.name, "--output=json"))
        return dict(found.get("status", {}))

    def workers(self) -> list[str]:
        """The names of its worker pods."""
        labels = f"checkdam.dev/job={self.name},app.kubernetes.io/component=worker"
        return self.kubectl("get", "pods", f"--selector={labels}", "--output=name").split()

    def volume(self, claim: str) -> Path:
        """What is on a claim, as this computer sees it."""
        name = self.kubectl("get", "persistentvolumeclaim", claim, "--output=jsonpath={.spec.volumeName}")
        return self.cluster.volumes / name

    def rows(self) -> list[dict[str, int]]:
        """All that was written."""
        files = sorted((self.volume("results") / self.name).glob("*.jsonl"))
        return [json.loads(row) for file in files for row in file.read_text().splitlines()]

    def check(self) -> int:
        """How many rows there are: each payment once, each account numbered without a gap, and all balances follow from the payments."""
        rows, accounts = self.rows(), defaultdict[int, list[dict[str, int]]](list)
        for row in rows:
            accounts[row["account"]].append(row)
        for account, of_account in accounts.items():
            of_account.sort(key=lambda row: row["number"])
            assert [row["number"] for row in of_account] == list(range(1, len(of_account) + 1)), account
            balance = 0
            for row in of_account:
                balance += _cents(row["payment"])
                assert row["balance"] == balance, account
        assert len({row["payment"] for row in rows}) == len(rows)
        return len(rows)


def _cents(payment: int) -> int:
    """The amount of a payment, as the example makes it."""
    return payment * 2_654_435_761 % 2**32 // 5_000 % 1000
