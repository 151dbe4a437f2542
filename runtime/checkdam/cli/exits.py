"""Exit codes, the same for every command, and which error leads to which.

0 says that the job finished or was stopped as asked, and that nothing is wrong.
"""

from __future__ import annotations

from typing import Final

from checkdam.core.errors import CheckdamError, EntrypointError, ManifestError, PipelineError

FAILED: Final = 1
"""The job failed, or what was to be verified has problems."""

USAGE: Final = 2
"""The job never started: a wrong manifest, entrypoint or command line."""


def exit_code(error: CheckdamError) -> int:
    """The exit code for an error that ended a command."""
    return USAGE if isinstance(error, ManifestError | EntrypointError | PipelineError) else FAILED
