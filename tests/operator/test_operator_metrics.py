"""Metrics: one list of what there is, and jobs that leave nothing behind."""

from __future__ import annotations

import re

from checkdam_operator.metrics import METRICS, JobSample, OperatorMetrics


def exposed(text: str) -> dict[str, str]:
    """Name → type of all metrics of a scrape."""
    return {
        name: kind
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
        if not name.endswith("_created")
    }


def test_what_is_exposed_is_what_the_list_says() -> None:
    metrics = OperatorMetrics()
    metrics.show_job("ns", "flights", JobSample("Running", last_checkpoint_ms=1))
    assert exposed(metrics.render().decode()) == {spec.name: spec.type for spec in METRICS}
    assert len({spec.name for spec in METRICS}) == len(METRICS)


def test_names_follow_the_conventions() -> None:
    for spec in METRICS:
        assert re.fullmatch(r"checkdam_(operator|streamjob)_[a-z_]+", spec.name)
        assert spec.name.endswith("_total") == (spec.type == "counter")
        assert (spec.type == "histogram") == bool(spec.buckets)
        assert spec.text.endswith(".")
        if spec.name.startswith("checkdam_streamjob_"):
            assert spec.labels[:2] == ("namespace", "name")


def test_a_job_is_told_of_until_it_is_gone() -> None:
    metrics = OperatorMetrics()
    metrics.show_job("ns", "flights", JobSample("Running", True, False, True, 4, 3, 2, 1_767_000_000_500))
    metrics.show_job("ns", "other", JobSample("Failed", stalled=True))
    text = metrics.render().decode()
    job = '{name="flights",namespace="ns"'
    assert f"checkdam_streamjob_ready{job}}} 1.0" in text
    assert f'checkdam_streamjob_state{job},state="Running"}} 1.0' in text
    assert f"checkdam_streamjob_workers_ready{job}}} 3.0" in text
    assert f"checkdam_streamjob_restarts_total{job}}} 2.0" in text
    assert f"checkdam_streamjob_last_checkpoint_timestamp_seconds{job}}} 1.7670000005e+09" in text
    assert 'checkdam_operator_streamjobs{state="Running"} 1.0' in text
    assert 'checkdam_operator_streamjobs{state="Suspended"} 0.0' in text
    assert 'last_checkpoint_timestamp_seconds{name="other"' not in text
    metrics.forget_job("ns", "flights")
    text = metrics.render().decode()
    assert "flights" not in text
    assert 'checkdam_operator_streamjobs{state="Running"} 0.0' in text
