"""The CustomResourceDefinitions of our resources, made from their models: `python -m checkdam.spec.crd crds`.

The files are kept in the repository, so that `kubectl apply -f crds` and the Helm chart need no Python; a test holds them equal to what this module makes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from checkdam.spec.cel import Rule, cel_text
from checkdam.spec.checks import CHECKS
from checkdam.spec.metadata import Metadata, SavepointMetadata
from checkdam.spec.resource_rules import stream_job_rules, unchanged
from checkdam.spec.savepoint import SAVEPOINT_KIND, Savepoint, SavepointSpec, SavepointStatus
from checkdam.spec.status import StreamJobStatus
from checkdam.spec.streamjob import API_VERSION, KIND, StreamJob, StreamJobSpec
from checkdam.spec.structural import Schema, structural_schema

_HEADER: Final = "# Made by `make crds` from the models in runtime/checkdam/spec; edit those.\n"
_RULES: Final = "x-kubernetes-validations"
_API_VERSION_TEXT: Final = "Group and version of this kind of resource."
_KIND_TEXT: Final = "The kind of resource."


@dataclass(frozen=True)
class _Column:
    """A column of `kubectl get`; one with `wide` is shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def as_json(self) -> Schema:
        made: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            made["description"] = self.description
        return {**made, "priority": 1} if self.wide else made


@dataclass(frozen=True)
class _Resource:
    """What a CRD says of a resource beside its schema."""

    kind: str
    plural: str
    short_name: str
    columns: Sequence[_Column]
    selectable: Sequence[str]
    subresources: Schema


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_AGE: Final = _Column("Age", ".metadata.creationTimestamp", "date")
_STREAM_JOB: Final = _Resource(
    kind=KIND,
    plural="streamjobs",
    short_name="sjob",
    columns=(
        _Column("Ready", _ready("status"), description="Whether it runs as its spec says."),
        _Column("State", ".status.state"),
        _Column(
            "Workers", ".status.workersText", description="Workers that are connected, of those that there are to be."
        ),
        _Column("Parallelism", ".spec.parallelism", "integer"),
        _Column("Checkpoint age", ".status.lastCheckpoint.time", "date"),
        _Column("Restarts", ".status.restarts", "integer"),
        _AGE,
        _Column("Reason", _ready("reason"), wide=True),
        _Column("Message", _ready("message"), wide=True),
        _Column("Image", ".status.image", wide=True),
    ),
    selectable=(".spec.suspend", ".status.state"),
    subresources={
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.parallelism",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    },
)
_SAVEPOINT: Final = _Resource(
    kind=SAVEPOINT_KIND,
    plural="savepoints",
    short_name="sjsp",
    columns=(
        _Column("State", ".status.state"),
        _Column("Job", ".spec.job"),
        _Column("URI", ".status.uri"),
        _AGE,
        _Column("Message", ".status.message", wide=True),
    ),
    selectable=(".spec.job", ".status.state"),
    subresources={"status": {}},
)


def stream_job_crd() -> Schema:
    """The CustomResourceDefinition of StreamJob."""
    spec = structural_schema(StreamJobSpec, "spec", written_by_users=True)
    spec[_RULES] = [rule.as_validation() for rule in stream_job_rules()]
    _add(spec, "jobId", unchanged("spec.jobId", "it is the job's identity and the name of its folder in storage"))
    _add(
        spec,
        "maxParallelism",
        unchanged(
            "spec.maxParallelism", "it is the number of key groups, which all keyed state lies in", is_text=False
        ),
    )
    return _crd(_STREAM_JOB, StreamJob, spec, StreamJobStatus, Metadata)


def savepoint_crd() -> Schema:
    """The CustomResourceDefinition of Savepoint."""
    spec = structural_schema(SavepointSpec, "spec", written_by_users=True)
    for field in ("job", "uri"):
        _add(spec, field, unchanged(f"spec.{field}", "another savepoint is another resource"))
    return _crd(_SAVEPOINT, Savepoint, spec, SavepointStatus, SavepointMetadata)


def _add(spec: Schema, field: str, rule: Rule) -> None:
    spec["properties"][field].setdefault(_RULES, []).append(rule.as_validation())


def _crd(
    resource: _Resource, model: type[BaseModel], spec: Schema, status: type[BaseModel], metadata: type[BaseModel]
) -> Schema:
    group, version = API_VERSION.split("/")
    schema: Schema = {
        "type": "object",
        "description": model.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": _API_VERSION_TEXT},
            "kind": {"type": "string", "description": _KIND_TEXT},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": structural_schema(status, "status", written_by_users=False),
        },
        _RULES: _name_rules(metadata),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short_name],
                "categories": ["streaming"],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": resource.subresources,
                    "additionalPrinterColumns": [column.as_json() for column in resource.columns],
                    "selectableFields": [{"jsonPath": path} for path in resource.selectable],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _name_rules(metadata: type[BaseModel]) -> list[Schema]:
    """The checks of `metadata.name` as rules on the whole resource: a CRD may say nothing about metadata at its place."""
    checks = metadata.model_json_schema()["properties"]["name"][CHECKS]
    name = "self.metadata.name"
    return [
        Rule(
            check["cel"].replace("self", name), f"`metadata.name` {check['must']} (got {{}})", (cel_text(name),)
        ).as_validation()
        for check in checks
    ]


def crd_files() -> dict[str, str]:
    """Name of a file → its text, for all resources."""
    return {
        "streamjobs.yaml": _yaml(stream_job_crd()),
        "savepoints.yaml": _yaml(savepoint_crd()),
    }


def _yaml(crd: dict[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(crd, sort_keys=False, allow_unicode=True, width=120)


def main(arguments: list[str]) -> None:
    """Write the files into the folder that is named, or print them."""
    for name, text in crd_files().items():
        if arguments:
            folder = Path(arguments[0])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(f"---\n{text}")


if __name__ == "__main__":
    main(sys.argv[1:])
