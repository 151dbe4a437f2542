"""From a manifest to a `StreamJob`, or to all of its problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from checkdam.core.errors import ManifestError
from checkdam.spec.checks import shown
from checkdam.spec.documents import load_documents
from checkdam.spec.problems import sentences
from checkdam.spec.rules import rule_problems
from checkdam.spec.savepoint import SAVEPOINT_KIND, Savepoint
from checkdam.spec.streamjob import KIND, StreamJob


def load_manifest(path: Path) -> StreamJob:
    """The StreamJob of a YAML or JSON file; documents of other kinds beside it are left alone.

    Raises:
        ManifestError: The file cannot be read, is no YAML, does not hold exactly one StreamJob, or the StreamJob is wrong.
    """
    return parse_manifest(read_manifest(path), str(path))


def parse_manifest(data: Mapping[str, Any], source: str = KIND) -> StreamJob:
    """The StreamJob that `data`, decoded JSON or YAML, describes.

    Args:
        data: With apiVersion, kind, metadata and spec.
        source: Where it came from, for the heading of an error.

    Raises:
        ManifestError: It is wrong; lists every problem.
    """
    problems: list[str] = []
    job: StreamJob | None = None
    try:
        job = StreamJob.model_validate(dict(data))
    except ValidationError as error:
        problems = sentences(error.errors(include_url=False), StreamJob)
    problems += rule_problems(data)
    if job is None or problems:
        raise ManifestError(problems, source)
    return job


def parse_savepoint(data: Mapping[str, Any], source: str = SAVEPOINT_KIND) -> Savepoint:
    """The Savepoint that `data`, decoded JSON or YAML, describes.

    Args:
        data: With apiVersion, kind, metadata and spec.
        source: Where it came from, for the heading of an error.

    Raises:
        ManifestError: It is wrong; lists every problem.
    """
    try:
        return Savepoint.model_validate(dict(data))
    except ValidationError as error:
        raise ManifestError(sentences(error.errors(include_url=False), Savepoint), source) from error


def read_manifest(path: Path) -> dict[str, Any]:
    """The document of the only StreamJob in a file, as written and not checked further.

    Raises:
        ManifestError: The file cannot be read, is no YAML, or does not hold exactly one StreamJob.
    """
    source = str(path)
    try:
        documents = load_documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError([f"the file must be readable (got {error.strerror})"], source) from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            [f"the file must be text in UTF-8 (got byte {error.object[error.start]:#04x} at {error.start})"], source
        ) from error
    except ValueError as error:
        raise ManifestError([f"the file must be YAML (got {error})"], source) from error
    jobs = [document for document in documents if _kind(document) == KIND]
    # A lone document is taken for a StreamJob whatever it calls itself: then its `kind` is one of the problems listed.
    if len(documents) == 1:
        jobs = documents
    if len(jobs) != 1:
        found = ", ".join(_describe(document) for document in documents) or "nothing"
        raise ManifestError([f"the file must hold exactly one {KIND} (got {found})"], source)
    [job] = jobs
    if not isinstance(job, dict):
        raise ManifestError([f"the manifest must be a mapping (got {shown(job)})"], source)
    return job


def _kind(document: Any) -> Any:
    return document.get("kind") if isinstance(document, dict) else None


def _describe(document: Any) -> str:
    if not isinstance(document, dict):
        return shown(document)
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind', 'a document without a kind')}{f' {shown(name)}' if name else ''}"
