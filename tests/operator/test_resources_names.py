"""Names are valid, say what they are for, and are the same for all who ask for the same thing."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from resource_jobs import OLD_POD_UID, UID, coordinator, job, worker

from checkdam_operator.resources import config, names
from checkdam_operator.resources.names import COORDINATOR, WORKER

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", re.ASCII)

job_names = st.from_regex(r"[a-z]([-a-z0-9]{0,43}[a-z0-9])?", fullmatch=True)
uids = st.uuids().map(str)
indexes = st.integers(0, 32767)
revisions = st.integers(1, 10**9)
slots = st.one_of(st.just((COORDINATOR, 0)), st.tuples(st.just(WORKER), indexes))


@given(job_names, uids, slots, revisions, st.one_of(st.just(""), uids))
@example("a" * 45, UID, (COORDINATOR, 0), 10**9, OLD_POD_UID)
@example("a" * 45, UID, (WORKER, 32767), 10**9, OLD_POD_UID)
def test_every_name_is_a_dns_label_of_at_most_63_characters(
    name: str, uid: str, slot: tuple[str, int], revision: int, replaces: str
) -> None:
    made = [
        names.pod_name(name, uid, *slot, revision, replaces),
        names.auth_secret_name(name, uid),
        names.config_map_name(name, uid, revision, "{}"),
        names.service_name(name),
        names.disruption_budget_name(name),
        names.network_policy_name(name),
    ]
    for each in made:
        assert len(each) <= 63
        assert DNS_LABEL.fullmatch(each)


@given(job_names, slots, revisions)
@example("a" * 45, (WORKER, 32767), 10**9)
def test_every_label_has_a_valid_value(name: str, slot: tuple[str, int], revision: int) -> None:
    labels = names.pod_labels(job(name=name), *slot, revision, names.pod_hash(UID, *slot, revision, ""))
    for value in labels.values():
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)
    assert set(labels) <= names.OWN_LABELS


@given(job_names, job_names, uids, slots, slots, revisions)
@example("a", "a-w1", UID, (WORKER, 1), (WORKER, 0), 1)
@example("a", "a-coordinator", UID, (COORDINATOR, 0), (COORDINATOR, 0), 1)
@example("a", "a", UID, (WORKER, 1), (WORKER, 11), 1)
def test_pods_of_different_places_never_have_the_same_name(
    name: str, other: str, uid: str, slot: tuple[str, int], other_slot: tuple[str, int], revision: int
) -> None:
    one = names.pod_name(name, uid, *slot, revision, "")
    two = names.pod_name(other, uid, *other_slot, revision, "")
    assert (one == two) == ((name, slot) == (other, other_slot))


@pytest.mark.parametrize(
    ("uid", "index", "revision", "replaces"),
    [(OLD_POD_UID, 1, 1, ""), (UID, 2, 1, ""), (UID, 1, 2, ""), (UID, 1, 1, OLD_POD_UID)],
)
def test_a_pod_of_another_job_place_revision_or_predecessor_has_another_hash(
    uid: str, index: int, revision: int, replaces: str
) -> None:
    assert names.pod_hash(uid, WORKER, index, revision, replaces) != names.pod_hash(UID, WORKER, 1, 1, "")


def test_what_is_hashed_is_told_apart_by_where_it_ends() -> None:
    assert names.short_hash("ab", "c") != names.short_hash("a", "bc")
    assert names.short_hash("a", "") != names.short_hash("a")


def test_names_stay_the_same_for_ever() -> None:
    """Under another name the next operator would not find what this one has made."""
    assert names.pod_name("flight-delays", UID, WORKER, 3, 2, OLD_POD_UID) == "flight-delays-w3-ws7xe"
    assert names.auth_secret_name("flight-delays", UID) == "flight-delays-auth-57wwt"
    assert names.config_map_name("flight-delays", UID, 2, "{}") == "flight-delays-a2hdbkpc"


def test_the_service_leads_to_the_coordinator_and_to_no_other_pod() -> None:
    one = job()
    pod = coordinator(one)
    selector = config.service(one, pod["metadata"]["labels"][names.POD_HASH_LABEL])["spec"]["selector"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert not selector.items() <= worker(one)["metadata"]["labels"].items()
    assert not selector.items() <= coordinator(job(uid=OLD_POD_UID))["metadata"]["labels"].items()


def test_the_disruption_budget_and_the_scale_subresource_select_the_workers_alone() -> None:
    one = job()
    selector = config.disruption_budget(one)["spec"]["selector"]["matchLabels"]
    assert selector.items() <= worker(one)["metadata"]["labels"].items()
    assert not selector.items() <= coordinator(one)["metadata"]["labels"].items()
    assert names.selector(UID, WORKER) == ",".join(f"{key}={value}" for key, value in selector.items())
