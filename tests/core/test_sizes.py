"""Sizes for people."""

from __future__ import annotations

import pytest

from checkdam.core.sizes import format_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_468_006, "1.4 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5.0 TiB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_keeps_it_short(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text
