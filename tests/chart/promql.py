"""Reads PromQL expressions with the grammar of Prometheus: which metrics they name, by which labels, and which labels their results have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
from chart_kit import CHART, ROOT

from checkdam_operator.metrics import METRICS

_ROW: Final = re.compile(r"^\| `(checkdam_job_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
_TARGET_LABELS: Final = frozenset({"namespace", "pod", "container", "job", "instance"})
_JOB_TARGET_LABELS: Final = _TARGET_LABELS | {"streamjob"}
"""The PodMonitor of jobs adds the name of the job, since coordinators tell its id."""

_GRAFANA_INTERVAL: Final = "$__rate_interval"


@dataclass(frozen=True)
class Exported:
    """A series that Prometheus can have.

    Attributes:
        type: `counter` or `gauge`; the parts of a histogram count too.
        labels: Those of the metric, and those that Prometheus gives to whatever it reads there.
    """

    type: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Selected:
    """What an expression asks for in one place.

    Attributes:
        metric: Its name.
        matchers: Label → value that it is compared with.
        function: What is applied to a range of it, such as `rate`; empty where it is taken as it is.
    """

    metric: str
    matchers: Mapping[str, str]
    function: str


def exported() -> dict[str, Exported]:
    """Series → what is known of it: all that the operator and the coordinators tell."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    found = {
        match[1]: Exported(match[2], _JOB_TARGET_LABELS | set(re.findall(r"`(\w+)`", match[3])))
        for match in _ROW.finditer(page)
    }
    for spec in METRICS:
        labels = _TARGET_LABELS | set(spec.labels)
        if spec.type == "histogram":
            found[f"{spec.name}_bucket"] = Exported("counter", labels | {"le"})
            found |= {f"{spec.name}_{part}": Exported("counter", labels) for part in ("sum", "count")}
        else:
            found[spec.name] = Exported(spec.type, labels)
    return found


def parsed(text: str) -> promql_parser.Expr:
    """An expression; that of a dashboard may have Grafana's variables in it.

    Raises:
        ValueError: It is none.
    """
    return promql_parser.parse(text.replace(_GRAFANA_INTERVAL, "5m"))


def selections(expr: Any) -> Iterator[Selected]:
    """Every place where an expression asks for a metric."""
    yield from _selections(expr, "")


def _selections(expr: Any, function: str) -> Iterator[Selected]:
    if isinstance(expr, promql_parser.VectorSelector):
        yield Selected(expr.name or "", {m.name: m.value for m in expr.matchers.matchers}, function)
    elif isinstance(expr, promql_parser.MatrixSelector):
        yield from _selections(expr.vector_selector, function)
    elif isinstance(expr, promql_parser.Call):
        for argument in expr.args:
            yield from _selections(argument, expr.func.name)
    else:
        for part in ("expr", "lhs", "rhs"):
            if hasattr(expr, part):
                yield from _selections(getattr(expr, part), "" if part != "expr" else function)


def labels_of(expr: Any, known: Mapping[str, Exported]) -> frozenset[str]:
    """The labels that the results of an expression can have."""
    if isinstance(expr, promql_parser.VectorSelector):
        return known[expr.name or ""].labels
    if isinstance(expr, promql_parser.MatrixSelector):
        return labels_of(expr.vector_selector, known)
    if isinstance(expr, promql_parser.AggregateExpr):
        inside = labels_of(expr.expr, known)
        if str(expr.op) in ("topk", "bottomk"):
            return inside
        return inside & set(expr.modifier.labels) if expr.modifier else frozenset()
    if isinstance(expr, promql_parser.BinaryExpr):
        return labels_of(expr.lhs, known) or labels_of(expr.rhs, known)
    if isinstance(expr, promql_parser.Call):
        dropped = {"le"} if expr.func.name == "histogram_quantile" else set()
        return frozenset().union(*(labels_of(argument, known) for argument in expr.args)) - dropped
    return labels_of(expr.expr, known) if hasattr(expr, "expr") else frozenset()


@dataclass(frozen=True)
class Query:
    """An expression of a dashboard, and the labels that its legend shows."""

    place: str
    text: str
    legend_labels: frozenset[str]


def dashboard_queries() -> list[Query]:
    """All expressions of all dashboards."""
    found = []
    for file in sorted((CHART / "files" / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                legend = frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                found.append(Query(f"{file.stem}: {panel['title']}", target["expr"], legend))
    return found


def dashboard_variables() -> list[tuple[str, str]]:
    """(expression, label) of all variables of dashboards that are filled from a metric."""
    found = []
    for file in sorted((CHART / "files" / "dashboards").glob("*.json")):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert match is not None
                found.append((match[1], match[2]))
    return found
