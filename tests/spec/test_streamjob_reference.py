"""The reference page is what the models say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkdam.spec import StreamJob, parse_manifest
from checkdam.spec.documents import load_documents
from checkdam.spec.problems import models_in
from checkdam.spec.reference import EXAMPLE, main, reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "streamjob.md"


def test_the_page_in_docs_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs-reference`"


def test_the_page_is_written_to_the_file_named(tmp_path: Path) -> None:
    main([str(tmp_path / "page.md")])

    assert (tmp_path / "page.md").read_text(encoding="utf-8") == reference()


def test_the_example_of_the_page_is_valid() -> None:
    [example] = load_documents(EXAMPLE)
    assert parse_manifest(example).job_id == "default/flight-delays"


def test_every_field_is_described() -> None:
    def check(model: Any) -> None:
        assert model.__doc__, model
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"
            for child in models_in(info.annotation):
                check(child)

    check(StreamJob)
