"""Every reason that a condition or an Event may have, and what people are told of it.

A reason is one word for programs: alerts and scripts depend on it, so it stays once it was released. Each has a sentence on when it is given and, where
there is something to do, the remedy. Every call that gives a reason takes one of these types, so that none is given that is not here; the pages on
troubleshooting are held equal to what is here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

_WAITS: Final = (
    "It waits for the coordinator, for workers, or for state to be restored; the message says for which. For long? Look at the pods: "
    "`kubectl get pods --selector checkdam.dev/job=NAME`."
)
_UNDER_WAY: Final = "This change is under way; the message says what it waits for."


class Reason(StrEnum):
    """A reason that says of itself what it means.

    Attributes:
        when: When it is given: sentences for people.
        remedy: What to do about it; empty where there is nothing to do.
    """

    when: str
    remedy: str

    def __new__(cls, value: str, when: str = "", remedy: str = "") -> Reason:
        made = str.__new__(cls, value)
        made._value_ = value
        made.when = when
        made.remedy = remedy
        return made


class StalledReason(Reason):
    """Why a job does not go on, or not as its spec asks: reasons of `Stalled`, and of the Event that tells of it."""

    INVALID_SPEC = (
        "InvalidSpec",
        (
            "The spec cannot be run: a rule that the API server does not check, or a podTemplate that the job "
            "would not work with."
        ),
        "Correct the fields that the message lists.",
    )
    REFUSED = (
        "Refused",
        "The API server has refused a pod or another object of the job.",
        "Correct what the message names, most often in a podTemplate.",
    )
    FORBIDDEN = (
        "Forbidden",
        "An admission policy, or a right that the operator lacks, is in the way.",
        "Allow it, or do without.",
    )
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "A ResourceQuota of the namespace is exhausted.",
        "Raise it, or ask for less. It is tried again every 10 s.",
    )
    MANIFEST_REFUSED = (
        "ManifestRefused",
        "The ConfigMap with the next version's manifest cannot be stored; what runs goes on.",
        "The message says why: quota, rights, policy.",
    )
    MANIFEST_LOST = (
        "ManifestLost",
        (
            "Somebody has deleted the ConfigMap that the pods read, and the spec has changed since. Pods that "
            "run go on; none can be replaced."
        ),
        "Change `spec.restartNonce`: the spec is deployed as it is now.",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "The image does not exist or cannot be read.",
        "Correct `spec.image`, or give `imagePullSecrets` in both podTemplates.",
    )
    CONTAINER_CANNOT_START = (
        "ContainerCannotStart",
        ("The kubelet cannot make the container, for example because a variable comes from a Secret that is missing."),
        "Create what the message names.",
    )
    POD_CANNOT_START = (
        "PodCannotStart",
        (
            "A pod has been on its node for 15 s without a container; the message is the last warning about "
            "it: a volume that cannot be mounted, a Secret that is missing."
        ),
        "Create what it names, or correct the name.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "For 20 s no node has had room, or fitted.",
        "Add nodes or claims, or ask for less.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "A pod ends for using more memory than its limit, as the two before it in its place did.",
        "Raise the limit, raise `spec.parallelism`, or lower `spec.stateBackend.rocksdb.memory`.",
    )
    CRASH_LOOP = (
        "CrashLoop",
        "A pod ends, as the two before it in its place did.",
        "The message has its last words; `kubectl logs POD --previous` may have more.",
    )
    CANNOT_START = (
        "CannotStart",
        (
            "The coordinator runs, but the job cannot begin: a bucket that is missing, credentials that are "
            "wrong, storage out of reach."
        ),
        "Correct it. It is tried again, after longer and longer pauses.",
    )
    ATTEMPTS_FAIL = (
        "AttemptsFail",
        "Attempts fail again after three restarts. The last error is in the message.",
        ("Correct the cause. It is tried again as `spec.restart` says; when an attempt has run for 15 s, all is well."),
    )
    PROGRESS_DEADLINE_EXCEEDED = (
        "ProgressDeadlineExceeded",
        "The first version of a job has not come to run within `spec.upgrade.progressDeadline`.",
        "The message says what it waits for. It goes on waiting.",
    )
    ROLLED_BACK = (
        "RolledBack",
        "A new version has failed before its first checkpoint. The version before runs.",
        "Correct the spec; the rejected one is not tried again.",
    )
    STOP_FAILED = (
        "StopFailed",
        (
            "The savepoint or checkpoint that a change waits for has failed three times in a row. The version "
            "before runs, and trying goes on."
        ),
        "Correct the cause. Where it is a savepoint, `spec.upgrade.mode: LastState` does without one.",
    )
    SAVEPOINT_NOT_FOUND = (
        "SavepointNotFound",
        "`spec.restoreFrom` names a Savepoint that the namespace does not have.",
        "Create it, or give a uri.",
    )
    SAVEPOINT_NOT_READY = ("SavepointNotReady", "It is not complete yet.", "Wait; the job begins when it is.")
    SAVEPOINT_FAILED = ("SavepointFailed", "It has failed.", "Name another one.")
    JOB_FAILED = (
        "JobFailed",
        (
            "The job has ended for good: the restart strategy gave up, the program does not import, its state "
            "does not fit, a rollback was not possible. Its pods are gone, its state is kept."
        ),
        "Correct the cause and change the spec, if only `spec.restartNonce`.",
    )
    JOB_STOPPED = (
        "JobStopped",
        "The job was drained at its coordinator: its windows have fired, so it does not go on by itself.",
        "`spec.restoreFrom: Fresh` starts it over.",
    )
    JOB_TAKEN_OVER = (
        "JobTakenOver",
        (
            "Another coordinator has taken over the journal: the same job id and storage in another cluster "
            "or namespace, or a `checkdam run`."
        ),
        "Delete one of the two. A new `spec.restartNonce` takes the job back.",
    )


class NotStalledReason(Reason):
    """The reason of `Stalled` where it is false."""

    OPERATING = "Operating", "Nothing keeps the job from going on."


class ReadyReason(Reason):
    """How a job stands that is not stalled: reasons of `Ready` and `Progressing`."""

    RUNNING = ("Running", "Records are processed.")
    SUSPENDED = ("Suspended", "There are no pods, as `spec.suspend` says.")
    COMPLETED = ("Completed", "All input has been read, and all output is committed. There are no pods.")
    PENDING = ("Pending", "The job is about to be deployed for the first time.")
    STARTING = ("Starting", _WAITS)
    RESTARTING = ("Restarting", _WAITS)
    SUSPEND = ("Suspend", _UNDER_WAY)
    RESUME = ("Resume", _UNDER_WAY)
    UPGRADE = ("Upgrade", _UNDER_WAY)
    RESCALE = ("Rescale", _UNDER_WAY)
    RESTORE = ("Restore", _UNDER_WAY)
    ROLL_BACK = ("RollBack", _UNDER_WAY)


class CheckpointReason(Reason):
    """Reasons of `CheckpointHealthy`."""

    CHECKPOINTS_SUCCEED = ("CheckpointsSucceed", "The last checkpoint was completed.")
    NONE_YET = ("NoneYet", "There has been none since the job was started.")
    NOT_RUNNING = ("NotRunning", "The job does not run, so none is taken.")
    CHECKPOINTS_FAIL = (
        "CheckpointsFail",
        (
            "The last ones have failed, or storage does not say whether the last one counts; the message says why. "
            "The job goes on, for up to `spec.checkpoint.tolerableFailures` of them; then it restarts from the last "
            "good one. Storage that is full, slow, or refuses: correct it."
        ),
    )


class EventReason(Reason):
    """What has happened: reasons of Events, besides those of `Stalled`."""

    DEPLOYED = ("Deployed", "A revision was decided on; from what it starts.")
    RESCALED = (
        "Rescaled",
        "Another number of workers was decided on; and once more when a checkpoint was completed with as many.",
    )
    SUSPENDED = ("Suspended", "The job was suspended; with what savepoint or checkpoint.")
    COMPLETED = ("Completed", "All input has been read.")
    RECOVERED = ("Recovered", "The job processes records again after a restart.")
    RESOLVED = ("Resolved", "What had stalled the job is over.")
    SAVEPOINT_COMPLETED = ("SavepointCompleted", "A Savepoint is complete; where it is.")
    SAVEPOINT_FAILED = ("SavepointFailed", "It has failed; create another one.")
    ATTEMPT_FAILED = (
        "AttemptFailed",
        (
            "An attempt has failed, and why: the user's code, a process, a worker that was lost, a "
            "connection, checkpoints, a timeout. Tracebacks are in the logs."
        ),
    )
    STARTED_AFRESH = (
        "StartedAfresh",
        "The coordinator of a job with `memory://` was lost, and its checkpoints with it.",
    )
    CHECKPOINT_FAILED = ("CheckpointFailed", "A checkpoint has failed; the last good one is kept.")
    CONTAINER_ENDED = (
        "ContainerEnded",
        "The container of a pod has ended, and how, for the first time. Kubernetes starts it again.",
    )
    POD_REPLACED = (
        "PodReplaced",
        ("A pod has been replaced: by what cause, and how its container ended. One that somebody deleted is not told."),
    )
    ROLLED_BACK = ("RolledBack", "A version has been given up for the one before.")


class SavepointReason(Reason):
    """How a Savepoint stands: reasons of its conditions."""

    COMPLETED = ("Completed", "It was taken, and can be restored.")
    ADOPTED = ("Adopted", "It stands for the files at `spec.uri`, which nobody has looked at.")
    IN_PROGRESS = ("InProgress", "It is being taken.")
    JOB_NOT_RUNNING = ("JobNotRunning", "It waits for the job to run.")
    JOB_NOT_FOUND = ("JobNotFound", "There is no such StreamJob in the namespace.")
    SAVEPOINT_FAILED = (
        "SavepointFailed",
        "It has failed, and `Stalled` is true. The message says why; create another one.",
    )
