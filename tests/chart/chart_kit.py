"""Renders the Helm chart with the real helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from cluster.programs import install

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "checkdam"

Object = dict[str, Any]


class HelmError(Exception):
    """helm refused; the message is what it printed."""


def helm(*arguments: str | Path, stdin: str | None = None) -> str:
    """What helm prints.

    Raises:
        HelmError: It failed.
    """
    command = [str(install("helm")), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise HelmError((done.stdout + done.stderr).strip())
    return done.stdout


def template(
    values: Mapping[str, Any] | None = None, *, release: str = "checkdam", namespace: str = "checkdam"
) -> list[Object]:
    """The objects that the chart renders to.

    Args:
        values: What differs from the defaults.
        release: Name of the release.
        namespace: Where it is installed.

    Raises:
        HelmError: helm refuses the values, or the chart.
    """
    text = _rendered(json.dumps(dict(values or {})), release, namespace)
    return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


@cache
def _rendered(values: str, release: str, namespace: str) -> str:
    return helm("template", release, CHART, f"--namespace={namespace}", "--values=-", stdin=values)


def one(manifests: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind, or the one of that name."""
    [found] = [
        manifest for manifest in manifests if manifest["kind"] == kind and name in ("", manifest["metadata"]["name"])
    ]
    return found


def container(manifests: list[Object]) -> Object:
    """The operator's container."""
    [found] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(manifests: list[Object]) -> dict[str, str]:
    """The variables of the operator's container that have a value."""
    return {variable["name"]: variable["value"] for variable in container(manifests)["env"] if "value" in variable}
