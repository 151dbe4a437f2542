"""The kinds of values that a StreamJob is made of, and the base of its models.

A manifest keeps what its author wrote: `10s` stays `10s` when a job is printed or stored, and accessors of the models
(`interval_ms`, `memory_bytes`) give the number. Types are strict, as the API server's are: `parallelism: "4"` is a string and is
refused. Every check here words its message `must be … (got …)`; `checkdam.spec.problems` puts the field's name before it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.checks import Check, cel_matches, matching, shown

_DURATION: Final = "(?:[0-9]{1,9}m?s|[0-9]{1,7}m|[0-9]{1,5}h){1,4}"
"""Bounded, since the API server reckons with durations of at most 292 years."""

_MUST_BE_DURATION: Final = "must be a duration such as 500ms, 10s, 5m or 1h"
_MUST_BE_SIZE: Final = "must be a size in bytes such as 65536, 256Ki, 512Mi or 2Gi"
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)
_MULTIPLES: Final[dict[str | None, int]] = {
    None: 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


class Model(BaseModel):
    """The base of all models: camelCase in manifests, unknown fields refused, immutable, `null` the same as left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # The API server prunes nulls of fields that are not nullable; the same manifest must mean the same here.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


def quantity_bytes(text: str) -> int:
    """Bytes of a quantity such as `512Mi`, `1.5Gi`, `200M` or `65536`, rounded up.

    Raises:
        ValueError: It is not one; the message says what it must be.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{_MUST_BE_SIZE} (got {shown(text)})")
    # Exact: a float would make 1.1Gi depend on rounding, and operator and worker must agree.
    return math.ceil(Fraction(match[1]) * _MULTIPLES[match[2]])


def _is_size(value: Any) -> bool:
    # YAML makes `memory: 65536` an integer; Kubernetes takes both.
    if isinstance(value, str):
        return _QUANTITY.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _is_more_than_nothing(value: Any) -> bool:
    if not _is_size(value):
        return True  # which has been told already
    return value > 0 if isinstance(value, int) else quantity_bytes(value) > 0


_LONGER_THAN_NOTHING: Final = Check(
    holds=lambda text: not text or parse_duration_ms(text) > 0,
    cel="self == '' || self.matches('[1-9]')",
    must="must be longer than 0s",
)

Duration = Annotated[str, matching(_DURATION, _MUST_BE_DURATION, before_type=True)]
"""Whole numbers with a unit of `ms`, `s`, `m` or `h`, several together if need be: `500ms`, `10s`, `1m30s`."""

PositiveDuration = Annotated[Duration, _LONGER_THAN_NOTHING]
"""A duration longer than nothing."""

OptionalDuration = Annotated[
    str, matching(_DURATION, _MUST_BE_DURATION, optional=True, before_type=True), _LONGER_THAN_NOTHING
]
"""A duration longer than nothing, or an empty text for none."""

ObjectName = Annotated[
    str,
    Field(max_length=253),
    matching(
        r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*",
        "must be the name of an object: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        optional=True,
    ),
]
"""The name of a Kubernetes object of the job's namespace, such as a Secret, or an empty text for none."""

Quantity = Annotated[
    str,
    BeforeValidator(str),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}),
    Check(
        holds=_is_more_than_nothing,
        cel="type(self) == string ? self.matches('[1-9]') : self > 0",
        must="must be more than 0 bytes",
        before_type=True,
    ),
    Check(
        holds=_is_size,
        cel=f"type(self) != string || {cel_matches('self', _QUANTITY.pattern)}",
        must=_MUST_BE_SIZE,
        before_type=True,
    ),
]
"""A positive number of bytes as Kubernetes writes it: `65536`, `256Ki`, `512Mi`, `2G`."""
