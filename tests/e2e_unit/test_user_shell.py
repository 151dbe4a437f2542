"""What somebody does who follows a page: where commands are run, with what names, and how one that does not end is ended."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.commands import CommandError
from user_shell import UserShell


@pytest.fixture
def shell() -> UserShell:
    return UserShell(dict(os.environ))


def test_a_command_is_run_in_the_projects_folder_and_must_succeed(shell: UserShell) -> None:
    assert shell.run("ls charts | cat") == "checkdam\n"
    with pytest.raises(CommandError, match="exit 3"):
        shell.run("exit 3")


def test_a_command_is_run_in_another_folder_if_the_shell_is_in_one(shell: UserShell, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").touch()
    elsewhere = replace(shell, folder=tmp_path)
    assert elsewhere.run("ls") == "job.yaml\n"
    elsewhere.watch("ls", lambda line: line == "job.yaml\n")


def test_names_of_pages_are_replaced_where_they_are_whole_words(shell: UserShell) -> None:
    here = replace(shell, names={"NAME": "orders", "namespace checkdam": "namespace other"})
    command = "echo job/NAME, NAMESPACE NAME-1 RENAME --namespace checkdam --namespace checkdam-2"
    printed = "job/orders, NAMESPACE NAME-1 RENAME --namespace other --namespace checkdam-2\n"
    assert here.run(command) == printed
    here.watch(command, lambda line: line == printed)


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
