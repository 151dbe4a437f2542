"""Monitors read what is there, alerts and dashboards ask for what is told, and every alert has a page that says what to do."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import yaml
from chart_kit import CHART, ROOT, container, one, template
from promql import dashboard_queries, dashboard_variables, exported, labels_of, parsed, selections
from spec_samples import manifest

from checkdam.coordinator.views import JobState
from checkdam.spec import parse_manifest
from checkdam.spec.status import Deployment, StartWish, State
from checkdam_operator.reasons import StalledReason
from checkdam_operator.resources import names
from checkdam_operator.resources.pods import PodDefaults, coordinator_pod

KNOWN = exported()
QUERIES = dashboard_queries()
RUNBOOKS = ROOT / "docs" / "how-to" / "runbooks.md"
MONITORED = {
    "metrics": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}
}
RATES = {"rate", "increase"}
STATES = {"checkdam_streamjob_state": get_args(State), "checkdam_job_state": get_args(JobState)}


def rules() -> list[dict[str, Any]]:
    """The alerts as Prometheus gets them."""
    [rule] = [made for made in template(MONITORED) if made["kind"] == "PrometheusRule"]
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


ALERTS = [
    alert
    for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    for alert in group["rules"]
]
NAMES_OF_ALERTS = [alert["alert"] for alert in ALERTS]


def problems_of(text: str) -> list[str]:
    """What is wrong with an expression, given what is told."""
    expr = parsed(text)
    found = []
    for selected in selections(expr):
        told = KNOWN.get(selected.metric)
        if told is None:
            found.append(f"nobody tells {selected.metric!r}")
            continue
        found += [f"{selected.metric} has no label {name!r}" for name in selected.matchers if name not in told.labels]
        if (told.type == "counter") != (selected.function in RATES):
            found.append(
                f"{selected.metric} is a {told.type}, which does not go with {selected.function or 'its plain value'!r}"
            )
        states = STATES.get(selected.metric)
        if states and "state" in selected.matchers:
            wanted = set(selected.matchers["state"].split("|"))
            found += [f"{state} is no state" for state in wanted.difference(states)]
    return found


def test_there_is_something_to_check() -> None:
    assert len(KNOWN) > 60
    assert len(QUERIES) > 50
    assert len(ALERTS) > 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("checkdam_operator_lead", "nobody tells 'checkdam_operator_lead'"),
        ('checkdam_operator_leader{nmae="a"}', "checkdam_operator_leader has no label 'nmae'"),
        ("rate(checkdam_operator_leader[5m])", "is a gauge, which does not go with 'rate'"),
        ("checkdam_operator_reconciles_total", "is a counter, which does not go with 'its plain value'"),
        ('checkdam_streamjob_state{state="Runing"}', "Runing is no state"),
    ],
)
def test_wrong_expressions_are_found(text: str, problem: str) -> None:
    assert problem in "; ".join(problems_of(text))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_a_panel_asks_for_what_is_told(query: Any) -> None:
    assert problems_of(query.text) == []
    assert query.legend_labels <= labels_of(parsed(query.text), KNOWN)


def test_the_variables_of_dashboards_come_from_what_is_told() -> None:
    for text, label in dashboard_variables():
        assert problems_of(text) == []
        assert label in labels_of(parsed(text), KNOWN)


def test_panels_of_a_dashboard_do_not_overlap_and_have_their_own_numbers() -> None:
    for made in (made for made in template(MONITORED) if made["kind"] == "ConfigMap"):
        [text] = made["data"].values()
        panels = yaml.safe_load(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24
            assert not cells & taken
            taken |= cells


def test_metrics_that_nobody_shows_are_few_and_known() -> None:
    shown = {selected.metric for query in QUERIES for selected in selections(parsed(query.text))}
    shown |= {selected.metric for rule in rules() for selected in selections(parsed(rule["expr"]))}
    assert {name.removesuffix("_count").removesuffix("_sum") for name in KNOWN if name not in shown} == {
        # Histograms are shown by their buckets.
        "checkdam_operator_api_request_duration_seconds",
        "checkdam_operator_api_write_wait_seconds",
        "checkdam_operator_reconcile_duration_seconds",
        # Numbers to look up, not to watch.
        "checkdam_job_epoch",
        "checkdam_job_attempt",
        "checkdam_job_last_checkpoint_id",
        "checkdam_job_checkpoint_in_progress",
        "checkdam_job_restarts_total",
        "checkdam_job_workers",
        "checkdam_job_worker_connected",
        "checkdam_operator_resyncs_total",
    }


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES_OF_ALERTS)
def test_an_alert_asks_for_what_is_told_and_says_what_it_is_about(alert: dict[str, Any]) -> None:
    text = alert["expr"].replace("$checkpointAgeSeconds", "900")
    assert problems_of(text) == []
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description"}
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    assert told <= labels_of(parsed(text), KNOWN)


def test_every_alert_leads_to_its_section_of_the_runbooks_and_each_section_has_one() -> None:
    headings = re.findall(r"^## (Checkdam\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert headings == NAMES_OF_ALERTS
    for rule in rules():
        assert (
            rule["annotations"]["runbook_url"] == f"https://checkdam.dev/docs/how-to/runbooks#{rule['alert'].lower()}"
        )


def test_a_section_of_the_runbooks_says_what_it_means_how_to_find_the_cause_and_what_to_do() -> None:
    sections = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        for part in ("**Meaning.**", "**Find the cause.**", "**What to do.**"):
            assert section.count(part) == 1, f"{section.partition(chr(10))[0]} lacks {part}"


def test_the_runbook_of_stalled_jobs_has_every_reason_that_the_operator_gives() -> None:
    section = RUNBOOKS.read_text().split("\n## ")[1]
    first_column = " ".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_column)) == {str(reason) for reason in StalledReason}


def test_the_age_of_checkpoints_that_alerts_is_a_value() -> None:
    values = {"metrics": {"prometheusRule": {"enabled": True, "checkpointAgeSeconds": 7_200_000}}}
    [rule] = [made for made in template(values) if made["kind"] == "PrometheusRule"]
    text = yaml.safe_dump(rule)
    assert "> 7200000" in text
    assert "$checkpointAge" not in text


def test_the_monitor_of_the_operator_selects_its_pods_and_names_their_port() -> None:
    made = template(MONITORED)
    monitor = one(made, "PodMonitor", "checkdam-operator")["spec"]
    labels = one(made, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in container(made)["ports"]]
    assert endpoint["honorLabels"] is True


def test_the_monitor_of_jobs_selects_coordinators_and_names_their_port() -> None:
    job = parse_manifest(
        manifest({"metadata.uid": "u-1", "spec.image": "i", "spec.checkpoint.storage.uri": "s3://bucket/jobs"})
    )
    deployment = Deployment(revision=1, generation=1, hash="h", parallelism=1, config_map="c")
    pod = coordinator_pod(job, deployment, PodDefaults("i"), start=StartWish(), since_epoch=0, start_number=1)
    monitor = one(template(MONITORED), "PodMonitor", "checkdam-jobs")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    [relabeling] = endpoint["relabelings"]
    [source] = relabeling["sourceLabels"]
    assert source == "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", names.JOB_LABEL)
    worker_labels = {**pod["metadata"]["labels"], names.COMPONENT_LABEL: names.WORKER}
    assert not monitor["selector"]["matchLabels"].items() <= worker_labels.items()


def test_monitors_look_where_jobs_are() -> None:
    assert one(template(MONITORED), "PodMonitor", "checkdam-jobs")["spec"]["namespaceSelector"] == {"any": True}
    made = template({**MONITORED, "watchNamespaces": ["team-a"]})
    assert one(made, "PodMonitor", "checkdam-jobs")["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_monitors_and_the_operator_use_the_same_token() -> None:
    for values, secret in (({}, "checkdam-metrics"), ({"existingSecret": "mine"}, "mine")):
        made = template({"metrics": {**MONITORED["metrics"], **values}})
        used = [
            endpoint["authorization"]["credentials"]
            for monitor in made
            if monitor["kind"] == "PodMonitor"
            for endpoint in monitor["spec"]["podMetricsEndpoints"]
        ]
        assert used == [{"name": secret, "key": "token"}] * 2
        volumes = one(made, "Deployment")["spec"]["template"]["spec"]["volumes"]
        assert [volume["secret"]["secretName"] for volume in volumes if "secret" in volume] == [secret]
        assert ("Secret" in {manifest["kind"] for manifest in made}) == (secret == "checkdam-metrics")
