"""Reads the fenced blocks of a page and runs them in page order, in a folder of the page's own.

What a block means is said behind its language:

* `python file=NAME`, `yaml file=NAME`, `text file=NAME`: a file that later blocks find in the folder.
* `python`: runs; names of earlier blocks of the page are there. Functions called `test_…` are called.
* `yaml`: a manifest, or the `spec` of one; must be valid. `yaml values`: values of the Helm chart, which the tests of the chart try out.
* `sh`: runs with bash, every command must succeed. `sh exit=N`: must end with that code.
* `sh manual`: not run here; only for certain commands (`MANUAL_COMMANDS`). Those that need a cluster are run by end-to-end tests.
* `text output`: what lines that the last `sh` block printed contain, in this order; `…` stands for anything, and so do
  spaces for any number of them.
* `text`, `json`, `mermaid` and others: not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from checkdam.spec import SAVEPOINT_KIND, parse_manifest, parse_savepoint

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"streamjob.md", "cli.md", "api.md", "metrics.md"}
MANUAL_COMMANDS = ("make ", "python -m pip install ", "checkdam run examples/", "kubectl ", "helm ", "flux ", "argocd ")
"""What is not run with its page: it installs, runs all tests, is run by the tests of the examples, or needs a cluster."""

TOOLS = ("curl", "jq", "pgrep")
"""Programs that pages use and not every machine has."""

COMMAND_TIMEOUT_S = 60

_FENCE = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what is said behind it, its text and where it begins."""

    language: str
    note: str
    text: str
    line: int

    def option(self, name: str) -> str | None:
        """The value of `name=value` behind the language."""
        return next((word.partition("=")[2] for word in self.note.split() if word.startswith(f"{name}=")), None)


def pages() -> list[Path]:
    """README and all pages that people wrote."""
    written = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("README.md"))]
    return [*written, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in GENERATED)]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    text = page.read_text()
    return [
        Block(match[1], match[2].strip(), match[3], text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]


def missing_tools(blocks: list[Block]) -> list[str]:
    """Programs that the commands of a page need and this machine lacks."""
    commands = " ".join(block.text for block in blocks if block.language == "sh")
    return [tool for tool in TOOLS if re.search(rf"\b{tool}\b", commands) and shutil.which(tool) is None]


@dataclass
class PageRun:
    """Runs the blocks of one page."""

    page: Path
    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    output: str = ""

    def run(self, block: Block) -> None:
        """Run one block; raises what is wrong with it."""
        name = block.option("file")
        if name is not None:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "yaml" and block.note != "values":
            _check_manifest(block)
        elif block.language == "sh":
            self._run_shell(block)
        elif block.language == "text" and block.note == "output":
            self._check_output(block)

    def _run_python(self, block: Block) -> None:
        # A module of its own, because the classes of records must be importable by name.
        module = ModuleType(f"docs_{re.sub(r'[^a-z]', '_', self.page.stem.lower())}_{block.line}")
        sys.modules[module.__name__] = module
        vars(module).update(self.names)
        where = f"{self.page.relative_to(ROOT)}, block at line {block.line}"
        exec(compile(block.text, where, "exec", dont_inherit=True), vars(module))
        for name, value in list(vars(module).items()):
            if name.startswith("test_") and getattr(value, "__module__", "") == module.__name__:
                value()
        self.names = {name: value for name, value in vars(module).items() if not name.startswith("__")}

    def _run_shell(self, block: Block) -> None:
        if block.note == "manual":
            wrong = [line for line in block.text.splitlines() if line and not line.startswith(MANUAL_COMMANDS)]
            assert not wrong, f"only {MANUAL_COMMANDS} may be left out of the run (got {wrong})"
            return
        done = subprocess.run(
            ["bash", "-e", "-c", block.text],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        self.output = done.stdout
        wanted = int(block.option("exit") or 0)
        assert done.returncode == wanted, f"exit code {done.returncode} instead of {wanted}:\n{done.stdout}"

    def _check_output(self, block: Block) -> None:
        lines = iter(" ".join(line.split()) for line in self.output.splitlines())
        for wanted in filter(None, block.text.splitlines()):
            pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("…")))
            assert any(pattern.search(line) for line in lines), f"{wanted!r} is not (there) in:\n{self.output}"


def _check_manifest(block: Block) -> None:
    data = yaml.safe_load(block.text)
    source = f"the block at line {block.line}"
    if data.get("kind") == SAVEPOINT_KIND:
        parse_savepoint(data, source)
        return
    whole = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "job"}, **data}
    spec = {"program": {"entrypoint": "job:build"}, **whole["spec"]}
    checkpoint = {"storage": {"uri": "file:///var/lib/checkdam"}, **spec.get("checkpoint", {})}
    parse_manifest({**whole, "spec": {**spec, "checkpoint": checkpoint}}, source)
