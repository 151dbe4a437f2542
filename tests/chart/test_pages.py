"""What pages say of Helm works: its commands, values for the chart, and the lists of what the chart brings."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from chart_kit import CHART, ROOT, helm, template

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), CHART / "README.md"]
_BLOCK = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

COMMANDS = [
    line
    for page in PAGES
    for language, _, text in _BLOCK.findall(page.read_text())
    if language == "sh"
    for line in text.splitlines()
    if line.startswith("helm ") and " charts/" in line
]
VALUES = [
    pytest.param(text, id=page.stem)
    for page in PAGES
    for language, note, text in _BLOCK.findall(page.read_text())
    if (language, note.strip()) == ("yaml", "values")
]
ONLY_WITH_A_CLUSTER = ("--create-namespace", "--reset-then-reuse-values", "--wait")


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_of_a_page_installs_the_chart(command: str) -> None:
    _, verb, *arguments = shlex.split(command)
    assert verb in ("install", "upgrade", "template")
    known = helm(verb, "--help")
    for flag in (argument for argument in arguments if argument in ONLY_WITH_A_CLUSTER):
        assert flag in known
    kept = [argument for argument in arguments if argument not in ONLY_WITH_A_CLUSTER]
    assert "kind: " in helm(
        "template", *(str(CHART) if argument == "charts/checkdam" else argument for argument in kept)
    )


@pytest.mark.parametrize("text", VALUES)
def test_values_on_a_page_are_values_of_the_chart(text: str) -> None:
    assert template(yaml.safe_load(text))


def test_there_are_commands_and_values() -> None:
    assert len(COMMANDS) >= 4
    assert VALUES


def test_the_page_about_monitoring_lists_the_alerts() -> None:
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    listed = re.findall(r"^\| `(Checkdam\w+)` \| (\w+) \|", page, re.MULTILINE)
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    assert listed == [(rule["alert"], rule["labels"]["severity"]) for group in groups for rule in group["rules"]]


def test_values_that_pages_name_exist() -> None:
    known = set(re.findall(r"^\| ([\w.]+) \|", (CHART / "README.md").read_text(), re.MULTILINE))
    prefixes = {name.split(".")[0] for name in known if "." in name} - {"spec"}
    for page in PAGES[:-1]:
        for name in re.findall(r"`((?:\w+\.)+\w+)(?:: [^`]*)?`", page.read_text()):
            if name.split(".")[0] in prefixes and not name.endswith(".yaml"):
                assert name in known, f"{page.name} names the value {name!r}"
