"""The reference pages are what the models say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkdam.spec import Savepoint, StreamJob, parse_manifest, parse_savepoint
from checkdam.spec.documents import load_documents
from checkdam.spec.problems import models_in
from checkdam.spec.reference import EXAMPLE, SAVEPOINT_EXAMPLE, main, pages
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import StreamJobStatus

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", ["streamjob.md", "savepoint.md"])
def test_the_pages_in_docs_are_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make docs-reference`"


def test_the_pages_are_written_into_the_folder_named(tmp_path: Path) -> None:
    main([str(tmp_path)])

    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == pages()


def test_the_examples_of_the_pages_are_valid() -> None:
    [job] = load_documents(EXAMPLE)
    [savepoint] = load_documents(SAVEPOINT_EXAMPLE)
    assert parse_manifest(job).job_id == "default/flight-delays"
    assert parse_savepoint(savepoint).spec.job == "flight-delays"


def test_every_field_is_described() -> None:
    def check(model: Any) -> None:
        assert model.__doc__, model
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"
            for child in models_in(info.annotation):
                check(child)

    for model in (StreamJob, StreamJobStatus, Savepoint, SavepointStatus):
        check(model)
