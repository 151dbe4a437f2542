"""What is asked of control groups of the second generation that have controllers, which may not be at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cgroups import CgroupError, Cgroups

OF_A_COMPUTER = "cpuset cpu io memory hugetlb pids rdma misc"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in (tmp_path, tmp_path / "group", tmp_path / "group" / "node"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text(OF_A_COMPUTER)
    return tmp_path


def test_groups_have_every_controller_that_the_kubelet_looks_for(tree: Path) -> None:
    Cgroups((tree,), True, tree).make("group/node")
    for folder in (tree, tree / "group", tree / "group" / "node"):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpu +cpuset +hugetlb +memory +pids"


def test_a_kernel_that_refuses_limits_is_told_with_a_remedy(tree: Path) -> None:
    (tree / "cgroup.subtree_control").mkdir()
    with pytest.raises(CgroupError, match="mkdir /sys/fs/cgroup/init"):
        Cgroups((tree,), True, tree).make("group/node")
