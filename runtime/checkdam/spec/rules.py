"""What must hold between several fields of a StreamJob.

The rules read the manifest as it was written, not the models: so they are checked even while other fields are wrong, and a user
sees all problems at once. A rule whose fields have the wrong type says nothing; the models have said it already.
The same rules for the API server, in CEL, are in `checkdam.spec.resource_rules`: change them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.checks import shown
from checkdam.spec.restart import DEFAULT_INITIAL_DELAY, DEFAULT_MAX_DELAY, FIELDS_OF_STRATEGY, Restart
from checkdam.spec.streamjob import StreamJobSpec

OPTION_OF_SCHEME: Final = {"s3": "s3", "hdfs": "hdfs", "file": "persistentVolumeClaim", "memory": "memory"}
BROKEN_BY_MEMORY: Final = ("ExactlyOnce", "AtMostOnce")
STRATEGY_FIELDS: Final = sorted({field for fields in FIELDS_OF_STRATEGY.values() for field in fields})
MEMORY_SENTENCE: Final = (
    "`spec.checkpoint.storage.uri` must be storage that outlives the coordinator for the mode {} (got 'memory://'); "
    "or accept that a lost coordinator starts the job afresh: `spec.checkpoint.storage.allowVolatile: true`, "
    "or let no failure be survived: `spec.restart.strategy: Never`"
)

Rule = Callable[[Mapping[str, Any]], Iterator[str]]
"""spec as written → a sentence for each problem."""


def rule_problems(manifest: Mapping[str, Any]) -> list[str]:
    """The problems between fields of a manifest, one sentence each."""
    spec = manifest.get("spec")
    if not isinstance(spec, Mapping):
        return []
    return [problem for rule in _RULES for problem in rule(spec)]


def _at(spec: Mapping[str, Any], path: str, default: Any = None) -> Any:
    value: Any = spec
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return default if value is None else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parallelism_fits(spec: Mapping[str, Any]) -> Iterator[str]:
    parallelism = _at(spec, "parallelism", StreamJobSpec.model_fields["parallelism"].default)
    highest = _at(spec, "maxParallelism", StreamJobSpec.model_fields["max_parallelism"].default)
    if _is_count(parallelism) and _is_count(highest) and parallelism > highest >= 1:
        yield f"`spec.parallelism` must be less than or equal to `spec.maxParallelism`, {highest} (got {parallelism})"


def _one_place_for_code(spec: Mapping[str, Any]) -> Iterator[str]:
    if _at(spec, "program.configMap") and _at(spec, "program.inline"):
        yield (
            "`spec.program.inline` must be left out where `spec.program.configMap` is given "
            f"(got {shown(_at(spec, 'program.configMap'))})"
        )


def _options_match_scheme(spec: Mapping[str, Any]) -> Iterator[str]:
    uri = _at(spec, "checkpoint.storage.uri")
    if not isinstance(uri, str):
        return
    scheme, separator, _ = uri.partition("://")
    for needed, option in OPTION_OF_SCHEME.items():
        if separator and scheme != needed and _at(spec, f"checkpoint.storage.{option}") is not None:
            yield (
                f"`spec.checkpoint.storage.{option}` must be left out unless `spec.checkpoint.storage.uri` "
                f"begins with {needed}:// (got {shown(uri)})"
            )


def _storage_keeps_the_promise(spec: Mapping[str, Any]) -> Iterator[str]:
    mode = _at(spec, "checkpoint.mode", "ExactlyOnce")
    if (
        _at(spec, "checkpoint.storage.uri") == "memory://"
        and mode in BROKEN_BY_MEMORY
        and _at(spec, "checkpoint.storage.allowVolatile") is not True
        and _at(spec, "restart.strategy") != "Never"
    ):
        yield MEMORY_SENTENCE.format(shown(mode))


def _settings_of_the_strategy(spec: Mapping[str, Any]) -> Iterator[str]:
    strategy = _at(spec, "restart.strategy", Restart.model_fields["strategy"].default)
    if not isinstance(strategy, str) or strategy not in FIELDS_OF_STRATEGY:
        return
    for field in STRATEGY_FIELDS:
        if field not in FIELDS_OF_STRATEGY[strategy] and _at(spec, f"restart.{field}") is not None:
            owners = [shown(name) for name, fields in FIELDS_OF_STRATEGY.items() if field in fields]
            yield (
                f"`spec.restart.{field}` must be left out with the strategy {shown(strategy)}: it belongs to {' and '.join(owners)} "
                f"(got {shown(_at(spec, f'restart.{field}'))})"
            )


def _delays_in_order(spec: Mapping[str, Any]) -> Iterator[str]:
    initial = _at(spec, "restart.initialDelay", DEFAULT_INITIAL_DELAY)
    longest = _at(spec, "restart.maxDelay", DEFAULT_MAX_DELAY)
    try:
        in_order = parse_duration_ms(initial) <= parse_duration_ms(longest)
    except (TypeError, ValueError):
        return
    if not in_order:
        yield f"`spec.restart.maxDelay` must be at least `spec.restart.initialDelay`, {initial} (got {shown(longest)})"


def _one_clock_for_savepoints(spec: Mapping[str, Any]) -> Iterator[str]:
    if _at(spec, "savepoints.interval") and _at(spec, "savepoints.schedule"):
        yield (
            "`spec.savepoints.schedule` must be left out where `spec.savepoints.interval` is given "
            f"(got {shown(_at(spec, 'savepoints.interval'))})"
        )


_RULES: Final[tuple[Rule, ...]] = (
    _parallelism_fits,
    _one_place_for_code,
    _options_match_scheme,
    _storage_keeps_the_promise,
    _settings_of_the_strategy,
    _delays_in_order,
    _one_clock_for_savepoints,
)
