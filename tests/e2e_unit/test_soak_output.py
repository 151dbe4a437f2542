"""What a soak makes of the output: an order that was skipped is found, and orders that were not read yet are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soak_output import output_of, skipped_orders


@pytest.mark.parametrize(
    ("orders", "skipped"),
    [
        ([], []),
        ([0, 1, 2, 3, 4], []),
        ([1, 5, 9, 0], []),  # splits are read at different speeds
        ([0, 8, 1], [4]),
        ([7], [3]),
        ([12, 15, 3], [0, 4, 7, 8, 11]),
    ],
)
def test_orders_are_skipped_if_later_ones_of_their_split_were_read(orders: list[int], skipped: list[int]) -> None:
    assert skipped_orders(orders, 4) == skipped


def test_what_is_wrong_with_the_output_is_told_with_the_number_of_receipts(tmp_path: Path) -> None:
    rows = [{"shop": "Lima", "receipt": number, "order": order} for number, order in ((1, 0), (2, 8), (2, 1))]
    (tmp_path / "part-receipts-0-1.1-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    number, problems = output_of(tmp_path)
    assert number == 3
    assert problems == [
        "Lima has 3 receipts, which are not those from 1 to 3",
        "1 orders were skipped: 4",
    ]
