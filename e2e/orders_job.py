"""The example `orders` as the job that tests break: how it is put on the cluster, and whether its output is what it must be.

Its receipts are numbered within each shop, so what is lost leaves a gap and what comes twice a number that comes twice, and
both can be told while it runs. They are in files that appear with checkpoints, on a volume that is a folder of this computer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from example_modules import EXAMPLES, module_of

from cluster_job import ClusterJob

NAME: Final = "orders"
_EXAMPLE: Final = EXAMPLES / NAME


@dataclass(frozen=True)
class OrdersJob(ClusterJob):
    """The example in a namespace of a cluster.

    Attributes:
        results: The folder with its receipts, on its volume.
    """

    name: str = NAME
    results: str = "results"

    def apply(self, **spec: Any) -> None:
        """Apply the example as its folder has it.

        Args:
            spec: Replaces parts of `spec`; `args` is merged into `program.args`.
        """
        documents = list(yaml.safe_load_all(self.kubectl("kustomize", str(_EXAMPLE))))
        job = next(document for document in documents if document["kind"] == "StreamJob")
        job["spec"]["program"]["args"] |= spec.pop("args", {})
        job["spec"] |= spec
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    @cached_property
    def output(self) -> Path:
        """The folder with the receipts, as this computer sees it. The API server is asked once only."""
        return self.volume(NAME) / self.results

    def check(self) -> int:
        """How many receipts there are, none of which is missing or comes twice."""
        number, problems = module_of(_EXAMPLE / "orders.py").problems(self.output)
        assert not problems
        return int(number)

    def attempts(self) -> set[str]:
        """Those that have written receipts, each as `<epoch>.<attempt>`, which the files are named after."""
        return {file.name.rsplit("-", 2)[1] for file in self.output.glob("*.jsonl")}

    def until_more(self, than: int) -> int:
        """How many receipts there are as soon as there are more than that; all of them are right."""
        seen: set[Path] = set()

        def more() -> int | None:
            # Receipts come with new files only. To read all of them at each look would keep a processor busy that pods need.
            there = set(self.output.glob("*.jsonl"))
            if there == seen:
                return None
            seen.update(there)
            return number if (number := self.check()) > than else None

        return self.until(more, f"more than {than} receipts")

    def until_another_attempt(self, attempts: set[str]) -> None:
        """Wait for output of an attempt after these, with all receipts right. Mere output could be of a checkpoint that was under way before."""
        self.until(lambda: self.attempts() - attempts or None, "output of another attempt")
        self.check()
