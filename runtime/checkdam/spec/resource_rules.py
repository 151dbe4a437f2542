"""What the API server is told beyond single fields: the rules of `checkdam.spec.rules` in CEL, and what must not change.

Every rule there has its counterpart here with the same sentence; a test holds them equal on a real API server. What must not change has none: a
file does not know what it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from checkdam.spec.cel import Rule, cel_text, cel_value
from checkdam.spec.checks import shown
from checkdam.spec.restart import DEFAULT_INITIAL_DELAY, DEFAULT_MAX_DELAY, FIELDS_OF_STRATEGY
from checkdam.spec.rules import BROKEN_BY_MEMORY, MEMORY_SENTENCE, OPTION_OF_SCHEME, STRATEGY_FIELDS


def stream_job_rules() -> list[Rule]:
    """Rules on the spec of a StreamJob."""
    return [
        Rule(
            "self.parallelism <= self.maxParallelism",
            "`spec.parallelism` must be less than or equal to `spec.maxParallelism`, {} (got {})",
            (cel_value("self.maxParallelism"), cel_value("self.parallelism")),
        ),
        Rule(
            "self.program.configMap == '' || self.program.inline.size() == 0",
            "`spec.program.inline` must be left out where `spec.program.configMap` is given (got {})",
            (cel_text("self.program.configMap"),),
        ),
        *_options_match_scheme(),
        Rule(
            "self.checkpoint.storage.uri != 'memory://' || self.checkpoint.storage.allowVolatile || self.restart.strategy == 'Never'"
            f" || !(self.checkpoint.mode in {list(BROKEN_BY_MEMORY)})",
            MEMORY_SENTENCE,
            (cel_text("self.checkpoint.mode"),),
        ),
        *_settings_of_the_strategy(),
        _delays_in_order(),
        Rule(
            "self.savepoints.interval == '' || self.savepoints.schedule == ''",
            "`spec.savepoints.schedule` must be left out where `spec.savepoints.interval` is given (got {})",
            (cel_text("self.savepoints.interval"),),
        ),
    ]


def _options_match_scheme() -> Iterator[Rule]:
    for scheme, option in OPTION_OF_SCHEME.items():
        yield Rule(
            f"!has(self.checkpoint.storage.{option}) || self.checkpoint.storage.uri.startsWith('{scheme}://')",
            f"`spec.checkpoint.storage.{option}` must be left out unless `spec.checkpoint.storage.uri` begins with {scheme}:// (got {{}})",
            (cel_text("self.checkpoint.storage.uri"),),
        )


def _settings_of_the_strategy() -> Iterator[Rule]:
    for field in STRATEGY_FIELDS:
        owners = [name for name, fields in FIELDS_OF_STRATEGY.items() if field in fields]
        shown_value = cel_text if field in _DURATIONS_OF_RESTART else cel_value
        yield Rule(
            f"!has(self.restart.{field}) || self.restart.strategy in {owners}",
            f"`spec.restart.{field}` must be left out with the strategy {{}}: it belongs to {' and '.join(map(shown, owners))} (got {{}})",
            (cel_text("self.restart.strategy"), shown_value(f"self.restart.{field}")),
        )


def _delays_in_order() -> Rule:
    initial = f"(has(self.restart.initialDelay) ? self.restart.initialDelay : '{DEFAULT_INITIAL_DELAY}')"
    longest = f"(has(self.restart.maxDelay) ? self.restart.maxDelay : '{DEFAULT_MAX_DELAY}')"
    # A text that is no duration has been told of already; as a duration it would be an error of the rule.
    return Rule(
        f"!{initial}.matches('^[0-9hms]+$') || !{longest}.matches('^[0-9hms]+$') || duration({initial}) <= duration({longest})",
        "`spec.restart.maxDelay` must be at least `spec.restart.initialDelay`, {} (got {})",
        (f"'%s'.format([{initial}])", cel_text(longest)),
    )


_DURATIONS_OF_RESTART: Final = ("initialDelay", "maxDelay", "resetAfter", "delay", "interval")


def unchanged(path: str, why: str, *, is_text: bool = True) -> Rule:
    """The rule that a field, which always has a value, stays as it is."""
    show = cel_text if is_text else cel_value
    return Rule(
        "self == oldSelf", f"`{path}` must stay as it is: {why} (was {{}}, got {{}})", (show("oldSelf"), show("self"))
    )
