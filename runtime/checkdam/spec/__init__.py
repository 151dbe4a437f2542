"""StreamJob, the description of a job, and Savepoint: shared by the command line, the runtime and the operator.

One set of pydantic models says what a manifest may hold (`streamjob` and `savepoint` at the top, one module for each part below them), each with
the `checks` of its own value; `rules` says what must hold between fields, and `manifest` reads a file or decoded data into a resource or raises
`ManifestError` with every problem, worded by `problems`. `status` is what the operator writes back. Nothing here knows how a job runs.
The reference pages (`reference`) and the CustomResourceDefinitions (`crd`, by way of `structural`, `cel` and `resource_rules`) are made from the same
models, so that the API server refuses what the command line refuses, in the same words.
"""

from checkdam.core.errors import ManifestError
from checkdam.spec.checkpoint import Checkpointing, CheckpointStorage, Mode
from checkdam.spec.manifest import load_manifest, load_resources, parse_manifest, parse_savepoint, read_manifest
from checkdam.spec.metadata import Metadata
from checkdam.spec.restart import ExponentialDelay, FailureRate, FixedDelay, Never, Restart, RestartStrategy
from checkdam.spec.runtime import RuntimeSettings
from checkdam.spec.savepoint import SAVEPOINT_KIND, Savepoint
from checkdam.spec.state import BackendType, StateBackend
from checkdam.spec.streamjob import API_VERSION, FRESH, KIND, StreamJob, StreamJobSpec

__all__ = [
    "API_VERSION",
    "FRESH",
    "KIND",
    "SAVEPOINT_KIND",
    "BackendType",
    "CheckpointStorage",
    "Checkpointing",
    "ExponentialDelay",
    "FailureRate",
    "FixedDelay",
    "ManifestError",
    "Metadata",
    "Mode",
    "Never",
    "Restart",
    "RestartStrategy",
    "RuntimeSettings",
    "Savepoint",
    "StateBackend",
    "StreamJob",
    "StreamJobSpec",
    "load_manifest",
    "load_resources",
    "parse_manifest",
    "parse_savepoint",
    "read_manifest",
]
