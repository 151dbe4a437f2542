"""Entrypoints: how they are found, and what is told of those that are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkdam.api.entrypoint import load_callable, load_graph
from checkdam.core.errors import EntrypointError
from checkdam.spec import StreamJob, parse_manifest

MODULE = "program_of_a_user"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the module, in a folder of a name that occurs in ours, as in a pod."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    folder = tmp_path / "etc" / "checkdam" / "program"
    folder.mkdir(parents=True)
    yield folder / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)


def job(function: str = "build", **program: Any) -> StreamJob:
    return parse_manifest(
        {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "job"},
            "spec": {
                "program": {"entrypoint": f"{MODULE}:{function}", **program},
                "checkpoint": {"storage": {"uri": "file:///checkpoints"}},
            },
        }
    )


def test_a_callable_is_found_by_its_path_in_the_module(program: Path) -> None:
    program.write_text("class Jobs:\n    @staticmethod\n    def build(pipeline, args):\n        return 7\n")
    assert load_callable(job("Jobs.build"), program.parent)(None, {}) == 7


def test_inline_files_go_before_those_beside_the_manifest(program: Path, tmp_path: Path) -> None:
    program.write_text("def build(pipeline, args):\n    return 'beside'\n")
    inline = {program.name: "def build(pipeline, args):\n    return 'inline'\n"}
    assert load_callable(job(inline=inline), program.parent, tmp_path / "inline")(None, {}) == "inline"


def test_a_callable_that_is_missing_is_told_with_those_that_the_module_defines(program: Path) -> None:
    program.write_text("from os.path import join\n\ndef make():\n    ...\n\ndef _hidden():\n    ...\n")
    with pytest.raises(EntrypointError, match=rf"names no callable of module `{MODULE}` \(it defines: make\)"):
        load_callable(job(), program.parent)


def test_a_module_that_is_missing_is_told_with_where_it_was_searched(program: Path) -> None:
    with pytest.raises(EntrypointError, match=rf"there is no module `{MODULE}`; searched in {program.parent}"):
        load_callable(job(), program.parent)


def test_an_error_at_import_is_told_with_the_users_frames_and_no_others(program: Path) -> None:
    program.write_text("def prepare():\n    return 1 // 0\n\nprepare()\n")
    with pytest.raises(EntrypointError) as raised:
        load_callable(job(), program.parent)
    text = str(raised.value)
    assert text.startswith(f"the entrypoint `{MODULE}:build` does not import\nTraceback (most recent call last):\n")
    assert f'"{program}", line 4, in <module>' in text
    assert f'"{program}", line 2, in prepare' in text
    assert text.endswith("ZeroDivisionError: integer division or modulo by zero")
    assert text.count('File "') == 2


def test_a_module_that_the_program_lacks_is_told_with_the_line_that_wants_it(program: Path) -> None:
    program.write_text("import there_is_no_such_package\n")
    with pytest.raises(EntrypointError, match="No module named 'there_is_no_such_package'") as raised:
        load_callable(job(), program.parent)
    assert f'"{program}", line 1' in str(raised.value)


def test_an_error_in_the_entrypoint_is_told_with_its_lines(program: Path) -> None:
    program.write_text("def build(pipeline, args):\n    args['rate'] / 2\n")
    with pytest.raises(EntrypointError, match=f"the entrypoint `{MODULE}:build` raised") as raised:
        load_graph(job(), program.parent)
    assert f'"{program}", line 2, in build' in str(raised.value)
    assert "KeyError: 'rate'" in str(raised.value)
