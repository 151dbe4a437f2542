"""Every command of the pages that needs a cluster is run by an end-to-end test, or there is a reason why none can."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from doc_blocks import ROOT, blocks_of, pages

from page_commands import NOT_RUN, commands

PROGRAMS = ("kubectl ", "helm ", "flux ", "argocd ")
CHART_PAGE = ROOT / "charts" / "checkdam" / "README.md"


@cache
def commands_of_pages() -> dict[str, list[str]]:
    """Command that needs a cluster → where it is."""
    found: dict[str, list[str]] = {}
    for page in [*pages(), CHART_PAGE]:
        for block in blocks_of(page):
            if (block.language, block.note) == ("sh", "manual"):
                for line in block.text.splitlines():
                    if line.startswith(PROGRAMS):
                        found.setdefault(line, []).append(f"{page.relative_to(ROOT)}:{block.line}")
    return found


def questions() -> Iterator[tuple[ast.Call, ast.AST]]:
    """Where end-to-end tests ask for the commands of a section: the call, and what is done with its answer."""
    for module in sorted((ROOT / "e2e").glob("test_*.py")):
        for node in ast.walk(ast.parse(module.read_text(), module.name)):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "commands":
                    yield part, node


def asked_for() -> set[str]:
    """The commands that tests ask for."""
    return {
        command
        for call, _ in questions()
        for command in commands(*(ast.literal_eval(argument) for argument in call.args))
    }


def test_every_command_that_needs_a_cluster_is_run_by_a_test_unless_there_is_a_reason() -> None:
    run = asked_for() | set(NOT_RUN)
    assert {command: where for command, where in commands_of_pages().items() if command not in run} == {}


def test_what_is_not_run_is_on_a_page() -> None:
    assert [command for command in NOT_RUN if command not in commands_of_pages()] == []


def test_whoever_asks_for_the_commands_of_a_section_takes_each_of_them() -> None:
    partly = [
        f"{ast.unparse(call)} is not taken whole"
        for call, use in questions()
        if isinstance(use, ast.Subscript) or (isinstance(use, ast.Assign) and _leaves_some(use.targets))
    ]
    assert partly == []


def _leaves_some(targets: list[ast.expr]) -> bool:
    return any(isinstance(part, ast.Starred) for target in targets for part in ast.walk(target))
