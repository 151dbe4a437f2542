"""The API server and the command line agree on any manifest: whether it is right, and what it means."""

from __future__ import annotations

from typing import Any, Final

from crd_calls import Resources, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_samples import manifest

from checkdam.core.errors import ManifestError
from checkdam.spec import parse_manifest
from cluster.control_plane import ApiError, ControlPlane

SETTINGS: Final = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

durations = st.from_regex(r"\A([0-9]{1,4}(ms|s|m|h)){1,3}\Z")
positive_durations = st.from_regex(r"\A[1-9]([0-9]{0,3})(ms|s|m|h)\Z")
sizes = st.integers(1, 2**40) | st.from_regex(r"\A[1-9][0-9]{0,3}(\.[0-9])?(Ki|Mi|Gi|k|M|G|)\Z")
object_names = st.just("") | st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z]{1,3})?\Z")
json_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8) | st.floats(-1e6, 1e6).map(lambda x: x + 0.5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner | st.none(), max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
env = st.lists(
    st.fixed_dictionaries({"name": st.text(min_size=1, max_size=8)}, optional={"value": st.text(max_size=8)})
    | st.fixed_dictionaries({"name": st.just("A"), "valueFrom": mappings}),
    max_size=3,
)
restarts = st.one_of(
    st.fixed_dictionaries({"maxDelay": st.just("99999h")}, optional={"initialDelay": durations}),
    st.fixed_dictionaries({"multiplier": st.integers(1, 9) | st.floats(1, 9), "jitter": st.floats(0, 1)}),
    st.fixed_dictionaries(
        {"strategy": st.just("FixedDelay")}, optional={"delay": durations, "attempts": st.integers(0, 9)}
    ),
    st.fixed_dictionaries(
        {"strategy": st.just("FailureRate")}, optional={"failures": st.integers(1, 9), "interval": positive_durations}
    ),
)
storages = st.one_of(
    st.fixed_dictionaries(
        {"uri": st.sampled_from(["s3://bucket", "s3://my.bucket/a b/c"])},
        optional={
            "s3": st.fixed_dictionaries(
                {},
                optional={
                    "endpoint": st.sampled_from(["", "https://minio:9000"]),
                    "region": st.text(max_size=5),
                    "pathStyle": st.booleans(),
                    "credentialsSecret": object_names,
                },
            ),
            "parallelTransfers": st.integers(1, 64),
        },
    ),
    st.fixed_dictionaries(
        {"uri": st.just("memory://"), "allowVolatile": st.just(True)},
        optional={"memory": st.fixed_dictionaries({}, optional={"limit": sizes})},
    ),
    st.just({"uri": "file:///data", "persistentVolumeClaim": {"claimName": "c"}}),
)
right_fields = st.fixed_dictionaries(
    {},
    optional={
        "spec.image": st.text(max_size=8),
        "spec.program.args": mappings,
        "spec.program.inline": st.dictionaries(st.from_regex(r"\A[a-z_]{1,5}\.py\Z"), st.text(max_size=9), max_size=3),
        "spec.parallelism": st.integers(1, 64) | st.none(),
        "spec.maxParallelism": st.integers(64, 32768),
        "spec.suspend": st.booleans(),
        "spec.stateBackend": st.fixed_dictionaries({}, optional={"rocksdb": st.fixed_dictionaries({"memory": sizes})}) | st.none(),
        "spec.checkpoint.interval": positive_durations,
        "spec.checkpoint.minPause": durations,
        "spec.checkpoint.storage": storages,
        "spec.restart": restarts,
        "spec.upgrade": st.fixed_dictionaries({}, optional={"rollback": st.booleans(), "progressDeadline": positive_durations}),
        "spec.savepoints": st.sampled_from([{"interval": "1h"}, {"schedule": "*/5 1-3 * * sun"}, {"retain": 1}, {}]),
        "spec.worker": st.fixed_dictionaries({}, optional={"resources": mappings, "env": env, "podTemplate": mappings}),
        "spec.networkPolicy": st.fixed_dictionaries({}, optional={"ingress": st.lists(mappings, max_size=2)}),
        "spec.serviceAccountName": object_names,
        "spec.runtime": st.fixed_dictionaries({}, optional={"channelCredit": sizes, "batchSize": st.integers(1, 65536)}),
    },
)  # fmt: skip


@SETTINGS
@given(fields=right_fields)
def test_a_right_manifest_means_the_same_when_it_was_stored(
    control_plane: ControlPlane, fields: dict[str, Any]
) -> None:
    written = manifest(fields)

    stored = Resources(control_plane, "default").try_out(written)

    ours, theirs = parse_manifest(written), parse_manifest(stored)
    assert theirs.spec == ours.spec
    assert theirs.job_id == ours.job_id


texts = st.text(max_size=12) | st.text("0123456789hms.-_/:*, KMGi", max_size=12)
doubtful_fields = st.one_of(
    *(
        st.tuples(st.just(path), values)
        for path, values in {
            "spec.program.entrypoint": texts | st.from_regex(r"\A\w{1,3}(\.\w{1,3}){0,2}:\w{1,3}\Z"),
            "spec.program.configMap": texts | st.text("ab.-", max_size=6),
            "spec.program.inline": st.dictionaries(texts | st.text("a./-", max_size=4), st.just(""), max_size=2),
            "spec.jobId": texts | st.text("aB./-_", max_size=6),
            "spec.checkpoint.interval": texts | st.text("0129hms", max_size=8),
            "spec.checkpoint.retainFor": st.text("01hms", max_size=8),
            "spec.checkpoint.retain": st.integers(-1, 1002),
            "spec.checkpoint.storage.uri": texts | st.text("s3:/file.ab?#", max_size=9).map("{}".format)
            | st.sampled_from(["s3", "file", "hdfs", "memory", "gs"]).flatmap(lambda s: st.text("/.a?", max_size=6).map(f"{s}://{{}}".format)),
            "spec.restart.jitter": st.floats(-0.5, 1.5),
            "spec.restart.maxDelay": st.text("0129hms", max_size=8),
            "spec.savepoints.interval": st.text("0129hms", max_size=8),
            "spec.stateBackend": st.builds(lambda m: {"rocksdb": {"memory": m}}, st.integers(-1, 2) | st.text("012.MGi", max_size=5)),
            "spec.parallelism": st.integers(-1, 130),
            "metadata.name": st.text("a0-", min_size=1, max_size=47),
        }.items()
    )
)  # fmt: skip


def problems_of(written: dict[str, Any]) -> list[str]:
    try:
        parse_manifest(written)
    except ManifestError as error:
        return error.problems
    return []


def answer_to(plane: ControlPlane, written: dict[str, Any]) -> str:
    try:
        Resources(plane, "default").try_out(written)
    except ApiError as error:
        return refusal(error)
    return ""


@SETTINGS
@given(field=doubtful_fields)
def test_a_manifest_is_right_for_both_or_for_neither(control_plane: ControlPlane, field: tuple[str, Any]) -> None:
    path, value = field
    written = manifest({path: value})

    ours, theirs = problems_of(written), answer_to(control_plane, written)

    assert bool(ours) == bool(theirs), (ours, theirs)
    # What is shown of a text differs where it has characters that cannot be printed.
    assert all(problem.partition(" (got ")[0] in theirs for problem in ours), (ours, theirs)


cron_fields = st.sampled_from(
    "* 0 5 7 31 1-5 5-1 8-18/2 */7 mon fri-sun sun-fri JAN feb-mar x 1,2 60 */0 1-5,9 5/10".split()  # noqa: SIM905
)


@SETTINGS
@given(st.lists(cron_fields, min_size=4, max_size=6))
def test_a_schedule_is_right_for_both_save_for_days_that_its_months_lack(
    control_plane: ControlPlane, parts: list[str]
) -> None:
    written = manifest({"spec.savepoints": {"schedule": " ".join(parts)}})

    ours, theirs = problems_of(written), answer_to(control_plane, written)

    if ours and not theirs:
        assert "must name times that come, in ranges that go forward" in ours[0]
        assert parts[2] == "31"
    else:
        assert bool(ours) == bool(theirs)
        assert all(problem in theirs for problem in ours)
