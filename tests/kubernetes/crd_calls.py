"""Requests about StreamJobs and Savepoints to the API server of the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from cluster.control_plane import ApiError, ControlPlane

MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True)
class Resources:
    """The resources of one kind in one namespace."""

    plane: ControlPlane
    namespace: str
    plural: str = "streamjobs"

    def _path(self, name: str = "", query: str = "") -> str:
        return f"/apis/checkdam.dev/v1alpha1/namespaces/{self.namespace}/{self.plural}{name and '/' + name}{query}"

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The object as stored. Unknown fields are refused, as kubectl has it."""
        created: dict[str, Any] = self.plane.call("POST", self._path(query="?fieldValidation=Strict"), manifest)
        return created

    def try_out(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The object as it would be stored."""
        tried: dict[str, Any] = self.plane.call(
            "POST", self._path(query="?fieldValidation=Strict&dryRun=All"), manifest
        )
        return tried

    def read(self, name: str) -> dict[str, Any]:
        """The object."""
        found: dict[str, Any] = self.plane.call("GET", self._path(name))
        return found

    def patch(self, name: str, changes: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        """The object after the changes."""
        target = self._path(f"{name}{subresource and '/' + subresource}", "?fieldValidation=Strict")
        patched: dict[str, Any] = self.plane.call("PATCH", target, changes, MERGE_PATCH)
        return patched

    def select(self, fields: str) -> list[str]:
        """Names of the objects with these values of fields."""
        return [
            item["metadata"]["name"]
            for item in self.plane.call("GET", self._path(query=f"?fieldSelector={fields}"))["items"]
        ]


def refusal(error: ApiError) -> str:
    """What the API server says to the user."""
    _, _, body = str(error).partition(": ")
    return str(json.loads(body)["message"])
