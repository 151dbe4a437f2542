"""What somebody does who follows a page: which commands those are, and how one that does not end is ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.commands import CommandError
from user_shell import UserShell, commands

PAGE = """# A page
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
```sh manual
kubectl three
```
## After
```sh manual
kubectl no
```
"""


@pytest.fixture
def shell() -> UserShell:
    return UserShell(dict(os.environ))


def test_the_commands_of_a_section_are_those_that_need_a_cluster(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert commands(str(page), "The section") == ["kubectl one", "helm two", "kubectl three"]


def test_a_command_is_run_in_the_projects_folder_and_must_succeed(shell: UserShell) -> None:
    assert shell.run("ls charts | cat") == "checkdam\n"
    with pytest.raises(CommandError, match="exit 3"):
        shell.run("exit 3")


def test_a_command_that_goes_on_is_interrupted_once_it_has_printed_enough_however_soon(
    shell: UserShell, tmp_path: Path
) -> None:
    for number in range(50):
        ended = tmp_path / f"ended-{number}"
        script = f"trap 'echo > {ended}; exit' INT; echo one; echo two; while :; do sleep 0.01; done"
        seen: list[str] = []

        def is_second(line: str, seen: list[str] = seen) -> bool:
            seen.append(line)
            return line == "two\n"

        shell.watch(f'sh -c "{script}"', is_second)
        assert seen == ["one\n", "two\n"]
        assert ended.exists()


def test_a_command_that_ends_before_it_has_printed_enough_is_told_with_what_it_has_printed(shell: UserShell) -> None:
    with pytest.raises(CommandError, match="ended: one"):
        shell.watch("echo one", lambda line: False)
