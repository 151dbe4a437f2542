"""Testing pipelines in pytest, without processes, sockets or waiting.

`Harness` runs a pipeline in the calling thread with the very task loop, operators and state that a job uses, at any
parallelism; it checkpoints, crashes and restores on demand. `ScriptedSource` plays records with planned pauses and
failures, `CommittedCollectSink` keeps what a checkpoint has committed, `ManualClock` is moved by the test.

::

    def test_words_are_counted():
        with Harness(build, args={"path": "poem.txt"}) as harness:
            harness.run()
            harness.checkpoint()
            harness.crash()
            assert harness.finish()["out"] == [("a", 2), ("b", 1)]
"""

from checkdam.connectors.callbacks import CollectSink, CommittedCollectSink
from checkdam.core.clock import ManualClock
from checkdam.testing.checked_state import UnannouncedChangeError
from checkdam.testing.harness import Harness
from checkdam.testing.sources import FAIL, PAUSE, PlannedFailureError, ScriptedSource

__all__ = [
    "FAIL",
    "PAUSE",
    "CollectSink",
    "CommittedCollectSink",
    "Harness",
    "ManualClock",
    "PlannedFailureError",
    "ScriptedSource",
    "UnannouncedChangeError",
]
