"""Wrong manifests and what is wrong with them, for all who refuse them: the command line and the API server.

Each is a change to the smallest manifest (see `spec_samples`) and the sentence that it gets.
"""

from __future__ import annotations

from typing import Any

Case = tuple[dict[str, Any], str]

_NO_URI = (
    "must be s3://bucket/prefix, file:///folder, file://./folder (below the manifest's folder, for local runs), "
    "hdfs://host:port/folder, memory://, or a uri that fsspec knows"
)
_NO_DURATION = "must be a duration such as 500ms, 10s, 5m or 1h"
_NO_SIZE = "must be a size in bytes such as 65536, 256Ki, 512Mi or 2Gi"
_NO_OBJECT = "must be the name of an object: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"
_NO_SCHEDULE = (
    "must be five fields as in cron, minute, hour, day of month, month and day of week, such as '0 3 * * *' "
    "or '*/30 8-18 * * mon-fri'"
)
_LONG = "x" * 300

FIELDS: list[Case] = [
    ({"spec.parallelism": 0}, "`spec.parallelism` must be greater than or equal to 1 (got 0)"),
    ({"spec.maxParallelism": 32769}, "`spec.maxParallelism` must be less than or equal to 32768 (got 32769)"),
    ({"spec.restart.multiplier": 0.5}, "`spec.restart.multiplier` must be greater than or equal to 1 (got 0.5)"),
    ({"spec.restart.jitter": 1.25}, "`spec.restart.jitter` must be less than or equal to 1 (got 1.25)"),
    (
        {"spec.checkpoint.tolerableFailures": -1},
        "`spec.checkpoint.tolerableFailures` must be greater than or equal to 0 (got -1)",
    ),
    (
        {"spec.checkpoint.tolerableFailures": 3_000_000},
        "`spec.checkpoint.tolerableFailures` must be less than or equal to 1000000 (got 3000000)",
    ),
    (
        {"spec.program.entrypoint": "flights.py"},
        "`spec.program.entrypoint` must be written as module:callable, such as flight_delays:build (got 'flights.py')",
    ),
    (
        {"spec.program.entrypoint": "it's:build"},
        "`spec.program.entrypoint` must be written as module:callable, such as flight_delays:build (got 'it's:build')",
    ),
    (
        {"spec.program.entrypoint": "__main__:build"},
        "`spec.program.entrypoint` must name a module that every process can import, which '__main__' is not (got '__main__:build')",
    ),
    (
        {"spec.program.inline": {"ok.py": "", "../x.py": ""}},
        "`spec.program.inline` must have plain file names such as flight_delays.py as its keys (got '../x.py')",
    ),
    ({"spec.program.configMap": "Code"}, f"`spec.program.configMap` {_NO_OBJECT} (got 'Code')"),
    ({"spec.serviceAccountName": "../x"}, f"`spec.serviceAccountName` {_NO_OBJECT} (got '../x')"),
    ({"spec.checkpoint.interval": "10 s"}, f"`spec.checkpoint.interval` {_NO_DURATION} (got '10 s')"),
    ({"spec.checkpoint.timeout": "1d"}, f"`spec.checkpoint.timeout` {_NO_DURATION} (got '1d')"),
    ({"spec.restart.maxDelay": ""}, f"`spec.restart.maxDelay` {_NO_DURATION} (got '')"),
    ({"spec.checkpoint.interval": _LONG}, f"`spec.checkpoint.interval` {_NO_DURATION} (got '{_LONG[:200]}…')"),
    ({"spec.checkpoint.interval": "0s"}, "`spec.checkpoint.interval` must be longer than 0s (got '0s')"),
    (
        {"spec.upgrade.progressDeadline": "0h0ms"},
        "`spec.upgrade.progressDeadline` must be longer than 0s (got '0h0ms')",
    ),
    ({"spec.stateBackend.rocksdb.memory": "512MB"}, f"`spec.stateBackend.rocksdb.memory` {_NO_SIZE} (got '512MB')"),
    ({"spec.runtime.channelCredit": 0}, "`spec.runtime.channelCredit` must be more than 0 bytes (got 0)"),
    ({"spec.runtime.channelCredit": "0.0Mi"}, "`spec.runtime.channelCredit` must be more than 0 bytes (got '0.0Mi')"),
    ({"spec.checkpoint.storage.uri": "file://data"}, f"`spec.checkpoint.storage.uri` {_NO_URI} (got 'file://data')"),
    (
        {"spec.checkpoint.storage": {"uri": "s3://bucket", "s3": {"endpoint": "https://me:secret@minio"}}},
        "`spec.checkpoint.storage.s3.endpoint` must be a server's URL such as https://minio.example:9000, without user, path or query",
    ),
    (
        {"spec.checkpoint.storage.persistentVolumeClaim": {"claimName": ""}},
        "`spec.checkpoint.storage.persistentVolumeClaim.claimName` must not be empty (got '')",
    ),
    (
        {"metadata.name": "f1.8"},
        "`metadata.name` must be at most 45 lower-case letters, digits and '-', beginning with a letter and ending with a letter or "
        "digit (got 'f1.8')",
    ),
    (
        {"metadata.name": "f" * 46},
        "`metadata.name` must be at most 45 lower-case letters, digits and '-', beginning with a letter and ending with a letter or "
        f"digit (got '{'f' * 46}')",
    ),
    (
        {"spec.jobId": "a/b/c"},
        "`spec.jobId` must be one or two names with '/' between them, each of at most 63 letters, digits, '-', '_' and '.', beginning "
        "and ending with a letter or digit (got 'a/b/c')",
    ),
    ({"spec.savepoints.interval": "0s"}, "`spec.savepoints.interval` must be longer than 0s (got '0s')"),
    ({"spec.savepoints.schedule": "0 24 * * *"}, f"`spec.savepoints.schedule` {_NO_SCHEDULE} (got '0 24 * * *')"),
    ({"spec.savepoints.schedule": "@daily"}, f"`spec.savepoints.schedule` {_NO_SCHEDULE} (got '@daily')"),
    (
        {"spec.savepoints.schedule": "0 0 * * fri-mon"},
        f"`spec.savepoints.schedule` {_NO_SCHEDULE} (got '0 0 * * fri-mon')",
    ),
    (
        {"spec.savepoints.schedule": "0 18-8/2 * * *"},
        "`spec.savepoints.schedule` must name times that come, in ranges that go forward (got '0 18-8/2 * * *')",
    ),
    (
        {"spec.worker.disruptionBudget.maxUnavailable": -1},
        "`spec.worker.disruptionBudget.maxUnavailable` must be greater than or equal to 0 (got -1)",
    ),
]
"""One field is wrong."""

RULES: list[Case] = [
    (
        {"spec.parallelism": 200},
        "`spec.parallelism` must be less than or equal to `spec.maxParallelism`, 128 (got 200)",
    ),
    (
        {"spec.program.configMap": "code", "spec.program.inline": {"x.py": ""}},
        "`spec.program.inline` must be left out where `spec.program.configMap` is given (got 'code')",
    ),
    (
        {"spec.checkpoint.storage.s3": {"region": "eu"}},
        "`spec.checkpoint.storage.s3` must be left out unless `spec.checkpoint.storage.uri` begins with s3:// (got 'file:///checkpoints')",
    ),
    (
        {"spec.checkpoint.storage": {"uri": "s3://bucket", "hdfs": {}}},
        "`spec.checkpoint.storage.hdfs` must be left out unless `spec.checkpoint.storage.uri` begins with hdfs:// (got 's3://bucket')",
    ),
    (
        {"spec.checkpoint.storage": {"uri": "s3://bucket", "persistentVolumeClaim": {"claimName": "c"}}},
        "`spec.checkpoint.storage.persistentVolumeClaim` must be left out unless `spec.checkpoint.storage.uri` begins with file:// "
        "(got 's3://bucket')",
    ),
    (
        {"spec.checkpoint.storage.memory": {}},
        "`spec.checkpoint.storage.memory` must be left out unless `spec.checkpoint.storage.uri` begins with memory:// "
        "(got 'file:///checkpoints')",
    ),
    (
        {"spec.restart": {"strategy": "FixedDelay", "delay": "1s", "multiplier": 2.0}},
        "`spec.restart.multiplier` must be left out with the strategy 'FixedDelay': it belongs to 'ExponentialDelay' (got 2)",
    ),
    (
        {"spec.restart": {"strategy": "Never", "jitter": 0.125}},
        "`spec.restart.jitter` must be left out with the strategy 'Never': it belongs to 'ExponentialDelay' (got 0.125)",
    ),
    (
        {"spec.restart": {"attempts": 3}},
        "`spec.restart.attempts` must be left out with the strategy 'ExponentialDelay': it belongs to 'FixedDelay' (got 3)",
    ),
    (
        {"spec.restart": {"strategy": "Never", "delay": "1s"}},
        "`spec.restart.delay` must be left out with the strategy 'Never': it belongs to 'FixedDelay' and 'FailureRate' (got '1s')",
    ),
    (
        {"spec.savepoints": {"interval": "1h", "schedule": "0 3 * * *"}},
        "`spec.savepoints.schedule` must be left out where `spec.savepoints.interval` is given (got '1h')",
    ),
    (
        {"spec.restart.initialDelay": "2m"},
        "`spec.restart.maxDelay` must be at least `spec.restart.initialDelay`, 2m (got '1m')",
    ),
    (
        {"spec.restart": {"initialDelay": "1h0m1s", "maxDelay": "60m"}},
        "`spec.restart.maxDelay` must be at least `spec.restart.initialDelay`, 1h0m1s (got '60m')",
    ),
    *(
        (
            {"spec.checkpoint.storage.uri": "memory://", "spec.checkpoint.mode": mode},
            "`spec.checkpoint.storage.uri` must be storage that outlives the coordinator for the mode "
            f"'{mode}' (got 'memory://'); or accept that a lost coordinator starts the job afresh: "
            "`spec.checkpoint.storage.allowVolatile: true`, or let no failure be survived: `spec.restart.strategy: Never`",
        )
        for mode in ("ExactlyOnce", "AtMostOnce")
    ),
]
"""Fields are right each for itself, and do not go together."""

OTHERWISE: list[Case] = [
    (
        {"spec.checkpoint.mode": "exactly-once"},
        "`spec.checkpoint.mode` must be one of 'ExactlyOnce', 'AtLeastOnce', 'AtMostOnce' (got 'exactly-once')",
    ),
    ({"spec.parallelism": "4"}, "`spec.parallelism` must be an integer (got '4')"),
    ({"spec.parallelism": True}, "`spec.parallelism` must be an integer (got true)"),
    ({"spec.suspend": "yes"}, "`spec.suspend` must be true or false (got 'yes')"),
    ({"spec.program": "flights:build"}, "`spec.program` must be a mapping (got 'flights:build')"),
    ({"spec.program.entrypoint": ...}, "`spec.program.entrypoint` must be given (got nothing)"),
    ({"spec.program.inline": {"x.py": 3}}, "`spec.program.inline['x.py']` must be a string (got 3)"),
    ({"spec.checkpoint.interval": 10}, f"`spec.checkpoint.interval` {_NO_DURATION} (got 10)"),
    ({"spec.worker.env": [{"name": "A"}, {"value": "x"}]}, "`spec.worker.env[1].name` must be given (got nothing)"),
    ({"spec.worker.env": [{"name": ""}]}, "`spec.worker.env[0].name` must not be empty"),
    ({"spec.jobId": "x" * 128}, "`spec.jobId` must be at most 127 characters long (got 128)"),
    (
        {"spec.program.inline": {f"m{index}.py": "" for index in range(65)}},
        "`spec.program.inline` must have at most 64 entries (got 65)",
    ),
    (
        {"spec.paralelism": 3},
        "`spec.paralelism` must be left out: there is no such field; did you mean `spec.parallelism`?",
    ),
]
"""The API server has words of its own: it refuses these before it looks at rules."""

LOCAL: list[Case] = [
    ({"apiVersion": "v1"}, "`apiVersion` must be 'checkdam.dev/v1alpha1' (got 'v1')"),
    ({"spec.restart.jitter": float("nan")}, "`spec.restart.jitter` must be a finite number (got NaN)"),
    (
        {"spec.savepoints.schedule": "0 0 30 2 *"},
        "`spec.savepoints.schedule` must name times that come, in ranges that go forward (got '0 0 30 2 *')",
    ),
]
"""What only the command line and the operator find."""

SAVEPOINTS: list[Case] = [
    (
        {"metadata.name": "s.1"},
        "`metadata.name` must be at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit (got 's.1')",
    ),
    (
        {"spec.job": "default/flights"},
        "`spec.job` must be at most 45 lower-case letters, digits and '-', beginning with a letter and ending with a letter or digit "
        "(got 'default/flights')",
    ),
    ({"spec.uri": "savepoint-1"}, f"`spec.uri` {_NO_URI} (got 'savepoint-1')"),
]
"""Wrong Savepoints."""

SAVEPOINTS_OTHERWISE: list[Case] = [
    ({"spec.job": ...}, "`spec.job` must be given (got nothing)"),
    ({"spec.onDelete": "Remove"}, "`spec.onDelete` must be one of 'Keep', 'Delete' (got 'Remove')"),
]
"""Wrong Savepoints of which the API server speaks in words of its own."""
