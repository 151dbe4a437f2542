"""Machines on the real kernel: what runs on one sees its own folders, can be stopped as a whole, and leaves nothing when it is ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.cgroups import Cgroups, cgroups
from cluster.layout import Layout, Machine
from cluster.machines import Machines
from cluster.state import ClusterState, Process, load

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount", "hostname"))),
    reason="needs root, util-linux, iproute2 and hostname",
)
MACHINE = Machine("machine", "10.0.0.1")
GROUP = f"checkdam-tests-{os.getpid()}"
COUNT = 'i=0; while :; do i=$((i+1)); echo $i > "$0"; sleep 0.01; done'
FORKS = "mount -t tmpfs tmpfs /var/lib && (sleep 600 & sleep 600 & wait)"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def second_generation() -> Cgroups:
    """The tree of the second generation that is mounted beside those of the first: all is there but limits."""
    found = cgroups()
    trees = [tree for tree in found.trees if (tree / "cgroup.controllers").exists()]
    if found.unified or not trees:
        pytest.skip("the control groups of this computer are all of one generation")
    return Cgroups((trees[0],), True, trees[0])


@pytest.fixture(params=[cgroups, second_generation])
def groups(request: pytest.FixtureRequest) -> Iterator[Cgroups]:
    found: Cgroups = request.param()
    yield found
    found.kill(GROUP)
    found.remove(GROUP)
    assert not [tree for tree in found.trees if (tree / GROUP).exists()]


@pytest.fixture
def machines(layout: Layout, groups: Cgroups) -> Machines:
    made = Machines(layout, groups, ClusterState(cgroup=GROUP))
    made.start(MACHINE)
    return made


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def mounts() -> list[str]:
    return sorted(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())


def test_a_machine_has_its_own_name_network_and_folders(machines: Machines, layout: Layout) -> None:
    before = mounts()
    assert machines.run(MACHINE, "hostname") == "machine\n"
    assert set(machines.run(MACHINE, "ls", "/run").split()) <= {"lock", "mount"}
    assert [line.split()[1] for line in machines.run(MACHINE, "ip", "-oneline", "link").splitlines()] == ["lo:"]
    machines.run(MACHINE, "sh", "-c", "echo here > /var/lib/file")
    assert (layout.of(MACHINE) / "lib" / "file").read_text() == "here\n"
    assert not Path("/var/lib/file").exists()
    assert mounts() == before


def test_what_was_started_is_written_down_and_runs_on_when_we_are_gone(machines: Machines, layout: Layout) -> None:
    process = machines.daemon(MACHINE, "sleeper", ("sh", "-c", "echo begun; exec sleep 600"))
    state = load(layout.state)
    assert state is not None
    assert state.daemons == {"machine/sleeper": process}
    assert state.holders[MACHINE.name].lives()
    until(lambda: layout.log(MACHINE, "sleeper").read_text() == "begun\n")
    assert Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    machines.stop(MACHINE, "sleeper")
    assert not machines.lives(MACHINE, "sleeper")


def test_a_machine_is_stopped_with_all_that_runs_on_it_and_goes_on(
    machines: Machines, groups: Cgroups, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    machines.daemon(MACHINE, "counter", ("sh", "-c", COUNT, str(counter)))
    until(lambda: counter.exists() and counter.read_text() != "")
    group = f"{GROUP}/{MACHINE.name}"
    assert not groups.is_frozen(group)
    groups.freeze(group)
    assert groups.is_frozen(group)
    frozen_at = counter.read_text()
    time.sleep(0.2)  # it would have counted on
    assert counter.read_text() == frozen_at
    groups.thaw(GROUP)  # with all below
    assert not groups.is_frozen(group)
    until(lambda: counter.read_text() not in (frozen_at, ""))


@pytest.mark.parametrize("frozen", [False, True])
def test_ending_a_machine_ends_what_its_programs_started_and_all_that_they_mounted(
    machines: Machines, groups: Cgroups, frozen: bool
) -> None:
    before = mounts()
    daemon = machines.daemon(MACHINE, "forks", ("sh", "-c", FORKS))
    until(lambda: len(groups.processes(GROUP)) == 5)  # the holder, two shells, two sleepers
    pids = [Process.of(pid) for pid in groups.processes(GROUP)]
    if frozen:
        groups.freeze(f"{GROUP}/{MACHINE.name}")
    groups.kill(GROUP)
    assert not daemon.lives()
    assert not [process for process in pids if process.lives()]
    assert mounts() == before
