"""A bar on a terminal for what takes a while; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reading_progress(*, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal, for as long as the block runs.

    Yields:
        What is to be told how many bytes have been read, and of how many; by any thread.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda read_bytes, all_bytes: progress.update(task, completed=read_bytes, total=all_bytes)
