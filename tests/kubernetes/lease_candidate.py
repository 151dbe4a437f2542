"""A replica in a process of its own that takes part in an election and, while it leads, counts in a ConfigMap.

`python lease_candidate.py NAMESPACE IDENTITY` with `KUBECONFIG` in the environment. It prints `leads` when it begins to lead. Each count is a write through the gate that the
operator's writes pass, and names who wrote it and when, by the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time

from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.kinds import CONFIG_MAP
from checkdam_operator.kube.lease import Elector, LeaseTimes, exit_at_once
from checkdam_operator.logs import configure_logs


async def main(namespace: str, identity: str) -> None:
    """Wait for the Lease, then count until SIGTERM, which gives it up."""
    configure_logs("text", "INFO")
    times = LeaseTimes()
    lease_client = KubeClient(await load_configuration(), timeout_s=times.request_timeout_s, read_retry_s=())
    elector = Elector(lease_client, namespace, "lease", identity, exit_at_once, times)
    client = KubeClient(await load_configuration(), before_write=elector.check)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("waits", flush=True)
    await elector.acquire()
    print("leads", flush=True)
    keeping = asyncio.create_task(elector.keep())
    count = 0
    while not stop.is_set():
        count += 1
        name = f"{identity}-{count}"
        await client.apply(CONFIG_MAP, namespace, name, {"data": {"by": identity, "at": repr(time.monotonic())}})
        await asyncio.sleep(0.05)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    await elector.release()
    await client.close()
    await lease_client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
