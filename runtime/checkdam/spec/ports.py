"""The ports of a job's pods. They are fixed, so that Services, network policies and monitors can name them."""

from __future__ import annotations

from typing import Final

CONTROL_PORT: Final = 6470
"""Of the coordinator, for workers."""

HTTP_PORT: Final = 6471
"""Of the coordinator: its HTTP API, for the operator, people and what reads metrics."""

DATA_PORT: Final = 6472
"""Of each worker, for the other workers."""
