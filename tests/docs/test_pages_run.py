"""Every command and every snippet of README and docs does what the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, PageRun, blocks_of, missing_tools, pages

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    if missing := missing_tools(blocks):
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    run = PageRun(page, tmp_path)
    try:
        for block in blocks:
            try:
                run.run(block)
            except Exception as error:
                raise AssertionError(f"{page.relative_to(ROOT)}:{block.line}: {error!r}") from error
    finally:
        for name in set(sys.modules) - modules:
            if name.startswith("docs_") or (getattr(sys.modules[name], "__file__", None) or "").startswith(
                str(tmp_path)
            ):
                del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [*pages(), *sorted((ROOT / "docs" / "reference").glob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = [match[1] for match in _LINK.finditer(page.read_text()) if match[1]]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def anchors_of(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_sections_lead_to_one(page: Path) -> None:
    links = [match for match in _LINK.finditer(page.read_text()) if match[2]]
    sections = [(page.parent / match[1] if match[1] else page, match[2][1:]) for match in links]
    assert [(str(found), anchor) for found, anchor in sections if anchor not in anchors_of(found)] == []


def test_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)`", text))
    assert len(named) > 30
    roots = (ROOT, ROOT / "runtime" / "checkdam", ROOT / "operator" / "checkdam_operator")
    assert sorted(name for name in named if not any((root / name).exists() for root in roots)) == []
