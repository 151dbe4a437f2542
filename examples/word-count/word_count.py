"""Counts the words of text files: the smallest job with state."""

from __future__ import annotations

import re
from typing import Any

import checkdam as cd


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline. Args: `paths` (a file, folder or pattern, or a list of them), `out` (folder for results)."""
    (
        pipeline.source("lines", cd.text_files(args["paths"]))
        .flat_map(words, name="words")
        .key_by(lambda word: word)
        .count(name="counts")
        .sink("out", cd.json_lines_sink(args.get("out", "out/word-count")))
    )


def words(line: str) -> list[str]:
    """The words of a line, in lower case."""
    return re.findall(r"[a-z']+", line.lower())
