"""How ends of processes are told, and what follows on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkdam.core.exits import describe_exit, write_termination_log
from checkdam.core.memory_kills import memory_kills
from checkdam.core.respawn import FIRST_PAUSE_S, GIVE_UP_AFTER, LONGEST_PAUSE_S, SETTLED_AFTER_S, TOLD_TO_GO_S, Respawn


def test_a_process_that_is_killed_again_and_again_comes_back_after_growing_pauses() -> None:
    respawn = Respawn()
    pauses = [respawn.pause_s(-9, 1.0) for _ in range(10)]
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert respawn.pause_s(-9, SETTLED_AFTER_S + 1) == 0.0
    assert respawn.pause_s(-9, 1.0) == FIRST_PAUSE_S


def test_a_process_that_cannot_start_is_given_up() -> None:
    respawn = Respawn()
    assert None not in [respawn.pause_s(1, 0.5) for _ in range(GIVE_UP_AFTER - 1)]
    assert respawn.pause_s(1, 0.5) is None


def test_errors_with_a_life_or_a_kill_in_between_are_not_in_a_row() -> None:
    respawn = Respawn()
    for code, lived_s in [(1, 0.5), (1, 0.5), (-9, 0.5), (1, 0.5), (1, 0.5), (1, 60.0), (1, 0.5), (1, 0.5)] * 2:
        assert respawn.pause_s(code, lived_s) is not None


def test_one_that_was_told_to_go_comes_back_after_a_moment() -> None:
    respawn = Respawn()
    assert respawn.pause_s(0, 0.1) == TOLD_TO_GO_S
    respawn.at_once()
    assert respawn.pause_s(-9, 0.1) == FIRST_PAUSE_S


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 94\noom 7\noom_kill 3\noom_group_kill 1\n"),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_kills_for_memory_are_counted_in_both_generations_of_control_groups(
    tmp_path: Path, file: str, counts: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(counts)
    assert memory_kills(tmp_path) == 3


def test_where_nobody_counts_kills_for_memory_there_are_none(tmp_path: Path) -> None:
    assert memory_kills(tmp_path) == 0


@pytest.mark.parametrize(
    ("code", "for_memory", "words"),
    [
        (1, True, "exited with 1"),
        (-9, False, "was killed by SIGKILL"),
        (-9, True, "was killed because its container had used up its memory"),
        (-11, True, "was killed by SIGSEGV"),
        (-99, False, "was killed by signal 99"),
    ],
)
def test_the_end_of_a_process_is_told_with_its_cause(code: int, for_memory: bool, words: str) -> None:
    assert describe_exit(code, for_memory=for_memory) == words


def test_the_termination_log_keeps_the_beginning_and_the_end_of_a_long_text(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    write_termination_log(path, "cause\n" + "ä" * 5000 + "\nlast line")
    text = path.read_bytes()
    assert len(text) <= 4096
    assert text.decode().startswith("cause\n")
    assert text.decode().endswith("\nlast line")
    write_termination_log(path, "short")
    assert path.read_text() == "short"
    write_termination_log("", "nowhere")
    write_termination_log(tmp_path / "no" / "such" / "folder", "nowhere either")
