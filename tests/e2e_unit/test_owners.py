"""Names tell what somebody made who is gone from what somebody made who may still need it."""

from __future__ import annotations

import os
import subprocess

from cluster.owners import CUT, NAMESPACE, SMALL_DISK, new_name, orphans, prefix


def test_what_was_made_by_a_process_that_is_gone_is_an_orphan_and_nothing_else_is() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    orphan = f"{CUT}-{ended.pid}-0123456789"
    others = [f"{CUT}-{os.getpid()}-0123456789", f"{NAMESPACE}-{ended.pid}-0123456789", "CUT", "KUBE-FORWARD"]
    assert orphans(CUT, [orphan, *others]) == [orphan]


def test_names_of_this_process_are_no_orphans_and_never_the_same() -> None:
    for kind in (CUT, NAMESPACE, SMALL_DISK):
        names = [new_name(kind) for _ in range(100)]
        assert len(set(names)) == len(names)
        assert all(name.startswith(f"{prefix(kind)}-") for name in names)
        assert orphans(kind, names) == []
        assert orphans(kind, [name.replace(str(os.getpid()), "4194304") for name in names]), "they are not recognised"


def test_the_kernel_takes_the_names_of_chains() -> None:
    assert len(new_name(CUT).replace(str(os.getpid()), "4194304")) <= 28
