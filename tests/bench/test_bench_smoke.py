"""The benchmark suite runs: tiny data, Checkdam alone, and not a word on speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run_bench(build: Path, *options: str, program: str = "run.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / program), "--build", str(build), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_quick_run_prints_a_row_for_each_scenario_asked_for(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--quick", "--system", "checkdam", "--only", "windows", "--only", "checkpoint-cost")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keyed windows" in done.stdout
    assert "without checkpoints" in done.stdout
    assert "failed" not in done.stdout


def test_an_unknown_scenario_is_refused_with_the_names_that_there_are(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_benchmark_of_state_moves_it_through_a_real_server(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--quick", "--no-jobs", program="state.py")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("full checkpoint", "full restore", "3 workers instead of 2", "still have", "bytes uploaded", "p99"):
        assert what in done.stdout
    assert not (tmp_path / "bench-state").exists()


@pytest.fixture
def bench_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.usefixtures("bench_modules")
def test_throughput_counts_from_the_end_of_the_warm_up_to_the_last_result(tmp_path: Path) -> None:
    from suite.stamps import read_stamps, steady_state

    path = tmp_path / "stamps"
    path.write_text(
        "read a 100 1000\nread b 150 1500\nout a 7 1600\nread a 400 2500\nread b 600 2600\nout b 9 3000\nout a 8 3500\n"
    )
    # 25 % of 1,000 lines have been read at 1,500 ms; the other 750 are done at 3,500 ms.
    steady = steady_state(read_stamps(path), 1000)
    assert (steady.lines, steady.start_ms, steady.end_ms) == (750, 1500, 3500)
    assert steady.lines_per_second == 375


@pytest.mark.usefixtures("bench_modules")
def test_a_run_that_did_not_read_all_is_no_measurement(tmp_path: Path) -> None:
    from suite.stamps import read_stamps, steady_state

    path = tmp_path / "stamps"
    path.write_text("read a 100 1000\nout a 7 1600\n")
    with pytest.raises(ValueError, match="must have read its 1000 lines"):
        steady_state(read_stamps(path), 1000)


@pytest.mark.usefixtures("bench_modules")
def test_a_smaller_data_set_is_a_prefix_of_a_larger_one(tmp_path: Path) -> None:
    from suite.data import data_set

    for kind in ("words", "events"):
        small, large = data_set(tmp_path, kind, 40), data_set(tmp_path, kind, 100)
        for part in ("part-0.txt", "part-1.txt"):
            first = (small / part).read_text()
            assert len(first.splitlines()) == 20
            assert (large / part).read_text().startswith(first)


@pytest.mark.usefixtures("bench_modules")
def test_a_quantile_is_one_of_the_values() -> None:
    from suite.probes import quantile

    values = [float(number) for number in range(1, 101)]
    assert quantile(values, 0.99) == 99.0
    assert quantile(values, 1.0) == 100.0
    assert quantile([5.0], 0.5) == 5.0
