"""Which commands a page has that need a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from page_commands import NOT_RUN, blocks, commands

PAGE = f"""# A page
```sh manual
kubectl zero
```
## Before
```sh manual
kubectl no
```
## The section
```sh
echo no
```
```sh manual
kubectl one
helm two
```
Text.
```yaml file=a.yaml
a: 1
```
```sh manual
{next(iter(NOT_RUN))}
kubectl three
```
## After
```sh manual
kubectl no
```
"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    return str(file)


def test_the_commands_of_a_section_are_those_that_need_a_cluster_and_can_be_run(page: str) -> None:
    assert commands(page, "The section") == ["kubectl one", "helm two", "kubectl three"]


def test_what_comes_before_the_first_section_has_no_name(page: str) -> None:
    assert commands(page, "") == ["kubectl zero"]


def test_a_section_that_has_no_commands_is_told(page: str) -> None:
    with pytest.raises(LookupError, match="`Absent`"):
        commands(page, "Absent")


def test_the_other_blocks_of_a_section_are_found_by_their_kind(page: str) -> None:
    assert blocks(page, "The section", "yaml file=a.yaml") == ["a: 1\n"]
    assert blocks(page, "The section", "yaml") == []
