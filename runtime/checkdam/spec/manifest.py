"""From a manifest to a `StreamJob` or a `Savepoint`, or to all of its problems at once."""

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


def load_resources(path: Path) -> list[StreamJob | Savepoint]:
    """All StreamJobs and Savepoints of a YAML or JSON file, in its order; documents of other kinds beside them are left alone.

    Raises:
        ManifestError: The file cannot be read, is no YAML, holds none, or one of them is wrong; lists the problems of all.
    """
    source = str(path)
    documents = _documents(path)
    ours = _of_kinds(documents, (KIND, SAVEPOINT_KIND))
    if not ours:
        raise ManifestError([f"the file must hold a {KIND} or a {SAVEPOINT_KIND} (got {_all(documents)})"], source)
    found: list[StreamJob | Savepoint] = []
    problems: list[str] = []
    for document in ours:
        parse = parse_savepoint if _kind(document) == SAVEPOINT_KIND else parse_manifest
        try:
            found.append(parse(_mapping(document, source)))
        except ManifestError as error:
            of = f"{_describe(document)}: " if len(ours) > 1 else ""
            problems += [f"{of}{problem}" for problem in error.problems]
    if problems:
        raise ManifestError(problems, source)
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """The document of the only StreamJob in a file, as written and not checked further.

    Raises:
        ManifestError: The file cannot be read, is no YAML, or does not hold exactly one StreamJob.
    """
    documents = _documents(path)
    jobs = _of_kinds(documents, (KIND,))
    if len(jobs) != 1:
        raise ManifestError([f"the file must hold exactly one {KIND} (got {_all(documents)})"], str(path))
    return _mapping(jobs[0], str(path))


def _documents(path: Path) -> list[Any]:
    source = str(path)
    try:
        return load_documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError([f"the file must be readable (got {error.strerror})"], source) from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            [f"the file must be text in UTF-8 (got byte {error.object[error.start]:#04x} at {error.start})"], source
        ) from error
    except ValueError as error:
        raise ManifestError([f"the file must be YAML (got {error})"], source) from error


def _of_kinds(documents: list[Any], kinds: tuple[str, ...]) -> list[Any]:
    # A lone document is taken for a StreamJob whatever it calls itself: then its `kind` is one of the problems listed.
    return documents if len(documents) == 1 else [document for document in documents if _kind(document) in kinds]


def _mapping(document: Any, source: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ManifestError([f"the manifest must be a mapping (got {shown(document)})"], source)
    return document


def _kind(document: Any) -> Any:
    return document.get("kind") if isinstance(document, dict) else None


def _all(documents: list[Any]) -> str:
    return ", ".join(_describe(document) for document in documents) or "nothing"


def _describe(document: Any) -> str:
    if not isinstance(document, dict):
        return shown(document)
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind', 'a document without a kind')}{f' {shown(name)}' if name else ''}"
