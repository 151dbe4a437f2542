"""What to run: a manifest or an entrypoint, with the flags of the command line laid over it.

Flags become fields of the manifest before it is checked, so they obey the same rules and lead to the same messages as a manifest.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from checkdam.cli.values import storage_uri
from checkdam.spec import API_VERSION, KIND, StreamJob, parse_manifest, read_manifest
from checkdam.spec.metadata import MAX_NAME_LENGTH

_MANIFEST_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Overrides:
    """Fields that the command line sets.

    Attributes:
        storage_uri: Absolute; replaces the whole storage with its options.
        args: Laid over `spec.program.args`, key by key.
        fields: Path below `spec`, such as `checkpoint.interval` → value.
    """

    storage_uri: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.storage_uri or self.args or self.fields)


@dataclass(frozen=True)
class Target:
    """A job to run.

    Attributes:
        job: Checked.
        base_folder: Absolute; where its entrypoint is imported from and where relative paths of its manifest begin.
    """

    job: StreamJob
    base_folder: Path


def find_target(target: str, overrides: Overrides, cwd: Path) -> Target:
    """The job that `target` names: a manifest's path, `module:callable` or `path/to/module.py:callable`.

    Raises:
        typer.BadParameter: It is none of these.
        ManifestError: The manifest, with the overrides, is wrong.
    """
    path = cwd / target
    if path.suffix in _MANIFEST_SUFFIXES or path.is_file():
        source = f"{target} with the flags given" if overrides else target
        return Target(parse_manifest(_overridden(read_manifest(path), overrides), source), path.resolve().parent)
    module, colon, function = target.rpartition(":")
    if not colon:
        raise typer.BadParameter(f"`TARGET` must be a manifest such as job.yaml, or module:callable (got {target!r})")
    folder = cwd
    if module.endswith(".py"):
        folder, module = (cwd / module).parent, Path(module).stem
    manifest = _manifest_of(f"{module}:{function}", _job_name(module), cwd)
    return Target(parse_manifest(_overridden(manifest, overrides), target), folder.resolve())


def _manifest_of(entrypoint: str, name: str, cwd: Path) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "program": {"entrypoint": entrypoint},
            "checkpoint": {"storage": {"uri": storage_uri(".checkdam", cwd)}},
        },
    }


def _job_name(module: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", module.rpartition(".")[2].lower())
    return words[:MAX_NAME_LENGTH].strip("-") or "job"


def _overridden(manifest: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    manifest = copy.deepcopy(manifest)
    if overrides.storage_uri is not None:
        # The options beside the old uri belong to it; what the user accepted about volatile storage still holds.
        storage = _mapping_at(manifest, ["spec", "checkpoint", "storage"])
        accepted = {name: storage[name] for name in ("allowVolatile",) if name in storage}
        storage.clear()
        storage.update(accepted, uri=overrides.storage_uri)
    if overrides.args:
        _mapping_at(manifest, ["spec", "program", "args"]).update(overrides.args)
    for path, value in overrides.fields.items():
        *parents, name = path.split(".")
        _mapping_at(manifest, ["spec", *parents])[name] = value
    return manifest


def _mapping_at(manifest: dict[str, Any], path: list[str]) -> dict[str, Any]:
    node = manifest
    for name in path:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    return node
