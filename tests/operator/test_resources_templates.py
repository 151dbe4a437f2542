"""What a podTemplate can change in a pod, what it cannot, and that no template is ignored or breaks the builder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pod_security import violations
from resource_jobs import DEFAULTS, container, coordinator, deployment, environment, job, worker

from checkdam.spec import ManifestError
from checkdam_operator.resources.pods import pod_problems, worker_pod


def templated(template: Any) -> dict[str, Any]:
    """A worker's pod with that podTemplate, and otherwise the same."""
    made = job({"worker": {"podTemplate": template}})
    return worker_pod(made, deployment(job()), DEFAULTS, 0, coordinator_ip="10.96.0.17")


def in_spec(**fields: Any) -> dict[str, Any]:
    """A worker's pod with a podTemplate of these fields of a pod's spec."""
    return templated({"spec": fields})


def in_container(**fields: Any) -> dict[str, Any]:
    """A worker's pod with a podTemplate of these fields of Checkdam's container."""
    return in_spec(containers=[{"name": "checkdam", **fields}])


def problems(template: Any) -> list[str]:
    """What is wrong with a podTemplate, without the beginning that all locations share."""
    found = pod_problems(job({"worker": {"podTemplate": template}}))
    assert all(problem.startswith("`spec.worker.podTemplate.") for problem in found)
    return [problem.replace("spec.worker.podTemplate.", "", 1) for problem in found]


def test_single_values_are_the_templates() -> None:
    pod = in_spec(terminationGracePeriodSeconds=600, priorityClassName="high")
    assert pod["spec"]["terminationGracePeriodSeconds"] == 600
    assert pod["spec"]["priorityClassName"] == "high"


def test_mappings_are_merged_field_by_field() -> None:
    pod = in_spec(securityContext={"runAsUser": 1000})
    assert pod["spec"]["securityContext"]["runAsUser"] == 1000
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_null_takes_a_field_out() -> None:
    """Where the cluster chooses user ids itself."""
    pod = in_spec(securityContext={"runAsUser": None, "runAsGroup": None, "fsGroup": None})
    assert pod["spec"]["securityContext"].keys() == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}


@pytest.mark.parametrize(
    "template",
    [
        {"metadata": None, "spec": None},
        {"metadata": {"labels": None, "annotations": None, "creationTimestamp": None}},
        {"spec": {"containers": None, "volumes": None, "tolerations": None}},
        {"spec": {"containers": [{"name": "checkdam", "command": None, "image": None, "env": None, "args": None}]}},
    ],
)
def test_null_does_not_take_out_what_a_pod_needs(template: dict[str, Any]) -> None:
    assert templated(template) == templated({})


def test_sidecars_and_init_containers_stand_beside_ours_and_are_made_safe() -> None:
    pod = in_spec(containers=[{"name": "logs", "image": "logs:1"}], initContainers=[{"name": "get", "image": "get:1"}])
    assert [found["name"] for found in pod["spec"]["containers"]] == ["checkdam", "logs"]
    assert container(pod, "logs")["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_what_a_sidecar_says_of_its_own_security_counts() -> None:
    own = {"allowPrivilegeEscalation": True, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
    assert container(in_spec(containers=[{"name": "x", "securityContext": own}]), "x")["securityContext"] == own


def test_a_toleration_of_ours_is_replaced_by_the_one_for_the_same_taint() -> None:
    """With both the shorter time would count."""
    longer = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    other = {"operator": "Exists", "effect": "NoSchedule"}
    found = in_spec(tolerations=[longer | {"tolerationSeconds": 300}, other])["spec"]["tolerations"]
    assert [(each.get("key"), each.get("tolerationSeconds")) for each in found] == [
        ("node.kubernetes.io/not-ready", 10),
        ("node.kubernetes.io/unreachable", 300),
        (None, None),
    ]


def test_the_writable_folders_may_be_given_another_source() -> None:
    claim = {"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "fast"}}}}
    volumes = in_spec(volumes=[{"name": "checkdam-run", **claim}])["spec"]["volumes"]
    assert [each for each in volumes if each["name"] == "checkdam-run"] == [{"name": "checkdam-run", **claim}]
    mounts = in_container(volumeMounts=[{"name": "mine", "mountPath": "/tmp"}])
    assert [each["name"] for each in container(mounts)["volumeMounts"] if each["mountPath"] == "/tmp"] == ["mine"]


def test_variables_are_replaced_and_added_by_name() -> None:
    """A value and the place where a value comes from cannot stand together."""
    env = [
        {"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TZ", "value": "UTC"},
    ]
    pod = in_container(env=env)
    assert [each for each in container(pod)["env"] if each["name"] in ("HOME", "TZ")] == env
    assert environment(pod)["CHECKDAM_INDEX"] == "0"


def test_other_lists_are_added_to_without_repeating() -> None:
    spread = [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}]
    keys = [
        each["topologyKey"] for each in in_spec(topologySpreadConstraints=spread)["spec"]["topologySpreadConstraints"]
    ]
    assert keys == ["kubernetes.io/hostname", "zone"]
    port = {"name": "data", "containerPort": 6472, "protocol": "TCP"}
    extra = {"name": "debug", "containerPort": 5678}
    assert container(in_container(ports=[port, extra]))["ports"] == [port, extra]


def test_labels_and_annotations_are_added() -> None:
    metadata = templated({"metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}}})["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["annotations"]["b"] == "c"


def test_the_two_kinds_of_pods_have_their_own_templates() -> None:
    made = job({"coordinator": {"podTemplate": {"spec": {"priorityClassName": "high"}}}})
    assert coordinator(made)["spec"]["priorityClassName"] == "high"
    assert "priorityClassName" not in worker(made)["spec"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ({"command": ["x"]}, "`spec.containers[0].command` must be left out: Checkdam's own command runs there"),
        ({"args": ["x"]}, "`spec.containers[0].args` must be left out: Checkdam's own command runs there"),
        ({"image": "x"}, "`spec.containers[0].image` must be left out: `spec.image` says it"),
        (
            {"volumeMounts": [{"name": "x", "mountPath": "/etc/checkdam//auth/"}]},
            "`spec.containers[0].volumeMounts[0].mountPath` must be another one: Checkdam needs this one itself "
            "(got '/etc/checkdam//auth/')",
        ),
        ({"resources": 4}, "`spec.containers[0].resources` must be a mapping (got 4)"),
        ({"ports": {}}, "`spec.containers[0].ports` must be a list (got {})"),
        ({"env": {"A": "hunter2"}}, "`spec.containers[0].env` must be a list"),
        ({"env": ["A=hunter2"]}, "`spec.containers[0].env[0]` must be a mapping"),
        ({"env": [{"value": "x"}]}, "`spec.containers[0].env[0].name` must be a string (got nothing)"),
        ({"securityContext": "x"}, "`spec.containers[0].securityContext` must be a mapping (got 'x')"),
    ],
)
def test_what_must_not_change_in_our_container_is_refused_by_name(template: dict[str, Any], problem: str) -> None:
    assert problems({"spec": {"containers": [{"name": "checkdam", **template}]}}) == [problem]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ({"template": {}}, "`template` must be left out: a podTemplate has `metadata` and `spec`"),
        ({"spec": []}, "`spec` must be a mapping (got [])"),
        ({"spec": {"restartPolicy": "Never"}}, "`spec.restartPolicy` must be 'Always' (got 'Never')"),
        (
            {"spec": {"volumes": [{"name": "checkdam-job", "emptyDir": {}}]}},
            "`spec.volumes[0].name` must be another one: Checkdam needs this one itself (got 'checkdam-job')",
        ),
        ({"spec": {"volumes": {}}}, "`spec.volumes` must be a list (got {})"),
        ({"spec": {"containers": [{"image": "x"}]}}, "`spec.containers[0].name` must be a string (got nothing)"),
        ({"spec": {"tolerations": [{"key": 1}]}}, "`spec.tolerations[0].key` must be a string (got 1)"),
        (
            {"spec": {"initContainers": [{"name": "x", "securityContext": []}]}},
            "`spec.initContainers[0].securityContext` must be a mapping (got [])",
        ),
        ({"metadata": {"name": "x"}}, "`metadata.name` must be left out: the operator gives it to the pod"),
        ({"metadata": {"finalizers": []}}, "`metadata.finalizers` must be left out: the operator gives it to the pod"),
        (
            {"metadata": {"labels": {"checkdam.dev/job": "x"}}},
            "`metadata.labels['checkdam.dev/job']` must be left out: the operator finds the pod by it",
        ),
        ({"metadata": {"labels": ["x"]}}, '`metadata.labels` must be a mapping (got ["x"])'),
        ({"metadata": {"annotations": {"port": 80}}}, "`metadata.annotations.port` must be a string (got 80)"),
    ],
)
def test_what_must_not_change_in_a_pod_is_refused_by_name(template: dict[str, Any], problem: str) -> None:
    assert problems(template) == [problem]


def test_all_problems_of_all_templates_are_told_at_once() -> None:
    bad = {"podTemplate": {"spec": {"restartPolicy": "Never", "volumes": 1}}}
    assert len(pod_problems(job({"worker": bad, "coordinator": bad}))) == 4


names = st.sampled_from(["checkdam", "checkdam-run", "checkdam-job", "tool", "HOME", "CHECKDAM_INDEX", "/tmp", "a"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), names)
words = [
    *("metadata", "spec", "labels", "annotations", "containers", "initContainers", "volumes", "volumeMounts", "env"),
    *("name", "mountPath", "command", "args", "image", "resources", "limits", "requests", "memory", "ports"),
    *("tolerations", "key", "effect", "restartPolicy", "topologySpreadConstraints", "imagePullSecrets", "emptyDir"),
    *("valueFrom", "checkdam.dev/job", "team", "terminationGracePeriodSeconds", "affinity"),
]
"""No field of a security context: what a template itself breaks is its own business."""
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(words), inner, max_size=4)),
    max_leaves=12,
)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of the right shape, and now and then anything."""
    return st.integers(0, 19).flatmap(lambda drawn: anything if drawn == 19 else right)


def fields(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A mapping with some of these fields."""
    return mostly(st.fixed_dictionaries({}, optional={name: mostly(kind) for name, kind in kinds.items()}))


def items(key: st.SearchStrategy[str], by: str = "name", **kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A list of things that are known by one of their fields."""
    item = st.fixed_dictionaries({by: key}, optional={name: mostly(kind) for name, kind in kinds.items()})
    return mostly(st.lists(mostly(item), max_size=3))


free = st.sampled_from(["tool", "models", "checkdam-run"])
texts = st.dictionaries(st.sampled_from(["team", "example.com/x"]), st.one_of(st.none(), names), max_size=2)
amounts = fields(limits=fields(memory=names, cpu=st.integers()), requests=fields(memory=names))
containers = items(
    st.sampled_from(["checkdam", "checkdam", "tool", "logs"]),
    env=items(st.sampled_from(["HOME", "TZ"]), value=names),
    volumeMounts=items(st.sampled_from(["/tmp", "/models", "/etc"]), by="mountPath", name=free),
    resources=amounts,
    ports=st.lists(fields(containerPort=st.integers())),
)
templates = fields(
    metadata=fields(labels=texts, annotations=texts),
    spec=fields(
        containers=containers,
        initContainers=containers,
        tolerations=items(names, by="key", effect=names),
        volumes=items(free, emptyDir=st.just({})),
        resources=amounts,
        terminationGracePeriodSeconds=st.integers(0, 600),
    ),
).filter(lambda template: isinstance(template, dict))


@given(templates)
def test_any_template_is_refused_with_reasons_or_gives_a_pod_that_is_still_ours(template: dict[str, Any]) -> None:
    expected = pod_problems(job({"worker": {"podTemplate": template}}))
    if expected:
        with pytest.raises(ManifestError) as refused:
            templated(template)
        assert refused.value.problems == expected
        return
    plain, pod = templated({}), templated(template)
    ours, own = container(plain), container(pod)
    assert {name: own[name] for name in ("command", "image", "securityContext")} == {
        name: ours[name] for name in ("command", "image", "securityContext")
    }
    assert plain["metadata"]["labels"].items() <= pod["metadata"]["labels"].items()
    assert plain["metadata"]["ownerReferences"] == pod["metadata"]["ownerReferences"]
    assert plain["metadata"]["name"] == pod["metadata"]["name"]
    replaceable = {"checkdam-run", "checkdam-tmp"}
    kept = [each for each in plain["spec"]["volumes"] if each["name"] not in replaceable]
    assert all(each in pod["spec"]["volumes"] for each in kept)
    assert {name for name in violations(pod) if not name.startswith("volume ")} == set()
