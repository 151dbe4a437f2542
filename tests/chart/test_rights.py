"""The operator's role grants what its code does, and nothing else; people get what `view` and `edit` mean elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from chart_kit import ROOT, Object, environment, one, template

from checkdam_operator.indexes import WATCHED
from checkdam_operator.kube import kinds
from checkdam_operator.kube.kinds import (
    LEASE,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Kind,
)

OPERATOR = ROOT / "operator" / "checkdam_operator"

VERBS = {
    "get": ("get",),
    "list": ("list",),
    "create": ("create",),
    "apply": ("create", "patch"),
    "patch": ("patch",),
    "delete": ("delete",),
}
"""Method of `kube.protocol.Cluster` → what the API server must allow. What an apply makes does not exist before."""

CALLS_WITH_ANY_KIND = {
    ("resync.py", "list"): tuple(WATCHED),
    ("reconcile/doing.py", "apply"): (SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY),
}
"""(module, method) → the kinds that it is called with, where the code does not say it in the call itself."""

Right = tuple[str, str, str]
"""Group, resource, verb."""


def rights_of_code() -> set[Right]:
    """What the code asks of the API server: every call of a verb on a cluster, and the watch."""
    found = {(kind.group, kind.plural, "watch") for kind in WATCHED}
    for file in OPERATOR.rglob("*.py"):
        module = str(file.relative_to(OPERATOR))
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _is_cluster(call.func.value):
                found |= set(_rights(module, call.func.attr, call))
    return found


def _is_cluster(expression: ast.expr) -> bool:
    name = expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")
    return name.lstrip("_") == "cluster"


def _rights(module: str, method: str, call: ast.Call) -> Iterator[Right]:
    if method not in VERBS:
        return
    subresource = next(
        (
            word.value.value
            for word in call.keywords
            if word.arg == "subresource" and isinstance(word.value, ast.Constant)
        ),
        "",
    )
    # Status exists with its resource, so applying it creates nothing.
    verbs = ("patch",) if subresource else VERBS[method]
    for kind in _kinds(module, method, call.args[0]):
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        for verb in verbs:
            yield kind.group, resource, verb


def _kinds(module: str, method: str, given: ast.expr) -> tuple[Kind, ...]:
    if isinstance(given, ast.Name) and isinstance(getattr(kinds, given.id, None), Kind):
        return (getattr(kinds, given.id),)
    assert (module, method) in CALLS_WITH_ANY_KIND, (
        f"{module}: which kinds is `{method}` called with in line {given.lineno}?"
    )
    return CALLS_WITH_ANY_KIND[module, method]


def rights_of(role: Object) -> set[Right]:
    """What a role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def is_of_lease(right: Right) -> bool:
    return right[:2] == (LEASE.group, LEASE.plural)


def test_the_role_grants_exactly_what_the_code_does() -> None:
    used = {right for right in rights_of_code() if not is_of_lease(right)}
    assert len(used) > 20
    assert rights_of(one(template(), "ClusterRole", "checkdam")) == used


def test_the_lease_is_only_touched_in_the_operators_own_namespace_under_its_own_name() -> None:
    manifests = template()
    role = one(manifests, "Role")
    assert role["metadata"]["namespace"] == "checkdam"
    assert rights_of(role) == {right for right in rights_of_code() if is_of_lease(right)}
    [unnamed] = [rule for rule in role["rules"] if "resourceNames" not in rule]
    assert unnamed["verbs"] == ["create"]
    [named] = [rule for rule in role["rules"] if "resourceNames" in rule]
    assert named["resourceNames"] == [environment(manifests)["CHECKDAM_OPERATOR_LEASE_NAME"]]


def test_no_rule_has_a_wildcard() -> None:
    for role in (manifest for manifest in template() if manifest["kind"] in ("Role", "ClusterRole")):
        assert "*" not in {part for right in rights_of(role) for part in right}


def test_an_operator_of_some_namespaces_has_rights_in_these_alone() -> None:
    manifests = template({"watchNamespaces": ["team-a", "team-b"], "rbac": {"userRoles": False}})
    kinds_of_manifests = {manifest["kind"] for manifest in manifests}
    assert not kinds_of_manifests & {"ClusterRole", "ClusterRoleBinding"}
    wide = rights_of(one(template(), "ClusterRole", "checkdam"))
    for namespace in ("team-a", "team-b"):
        [role] = [
            manifest
            for manifest in manifests
            if manifest["kind"] == "Role" and manifest["metadata"]["namespace"] == namespace
        ]
        assert rights_of(role) == wide


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a"]}, {"serviceAccount": {"name": "streams"}}])
def test_every_binding_leads_from_a_role_to_the_account_of_the_pods(values: dict[str, Any]) -> None:
    manifests = template(values)
    account = one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert one(manifests, "ServiceAccount")["metadata"]["name"] == account
    bindings = [manifest for manifest in manifests if manifest["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert len(bindings) == 2
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "checkdam"}]
        role = one(
            [
                manifest
                for manifest in manifests
                if manifest["metadata"].get("namespace") == binding["metadata"].get("namespace")
            ],
            binding["roleRef"]["kind"],
            binding["roleRef"]["name"],
        )
        assert role["rules"]


def test_viewers_read_and_editors_write_what_is_theirs() -> None:
    manifests = template()
    view = one(manifests, "ClusterRole", "checkdam-view")
    assert {verb for _, _, verb in rights_of(view)} == {"get", "list", "watch"}
    edit = rights_of(one(manifests, "ClusterRole", "checkdam-edit"))
    assert ("checkdam.dev", "streamjobs/scale", "patch") in edit
    assert not [right for right in edit if right[1].endswith("/status")]
    for role in (view, one(manifests, "ClusterRole", "checkdam-edit")):
        labels = role["metadata"]["labels"]
        assert labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
        assert ("rbac.authorization.k8s.io/aggregate-to-view" in labels) == (role is view)


def test_the_token_of_the_account_is_mounted_into_the_operator_alone() -> None:
    manifests = template()
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
