"""The kinds of values that a StreamJob is made of, and the base of its models.

A manifest keeps what its author wrote: `10s` stays `10s` when a job is printed or stored, and accessors of the models
(`interval_ms`, `memory_bytes`) give the number. Types are strict, as the API server's are: `parallelism: "4"` is a string and is
refused. Every validator here words its message `must be … (got …)`; `checkdam.spec.problems` puts the field's name before it.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from checkdam.core.durations import parse_duration_ms

_DURATION: Final = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+", re.ASCII)
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
_OBJECT_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_MAX_OBJECT_NAME: Final = 253
_SHOWN_LIMIT: Final = 200


class Model(BaseModel):
    """The base of all models: camelCase in manifests, unknown fields refused, immutable, `null` the same as left out."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # The API server prunes nulls of fields that are not nullable; the same manifest must mean the same here.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


def shown(value: Any) -> str:
    """A value as error messages show it: strings in single quotes, everything else as JSON, cut to 200 characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= _SHOWN_LIMIT else text[: _SHOWN_LIMIT - 1] + "…"


def _duration(value: Any) -> str:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"must be a duration such as 500ms, 10s, 5m or 1h (got {shown(value)})")
    return value


def _positive_duration(value: Any) -> str:
    text = _duration(value)
    if parse_duration_ms(text) == 0:
        raise ValueError(f"must be longer than 0s (got {shown(value)})")
    return text


def _optional_duration(value: Any) -> str:
    return "" if value == "" else _positive_duration(value)


def _object_name(text: str) -> str:
    if text and (len(text) > _MAX_OBJECT_NAME or not _OBJECT_NAME.fullmatch(text)):
        raise ValueError(
            f"must be the name of an object: at most {_MAX_OBJECT_NAME} lower-case letters, digits, '-' and '.', "
            f"beginning and ending with a letter or digit (got {shown(text)})"
        )
    return text


def quantity_bytes(text: str) -> int:
    """Bytes of a quantity such as `512Mi`, `1.5Gi`, `200M` or `65536`, rounded up.

    Raises:
        ValueError: It is not one; the message says what it must be.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a size in bytes such as 65536, 256Ki, 512Mi or 2Gi (got {shown(text)})")
    # Exact: a float would make 1.1Gi depend on rounding, and operator and worker must agree.
    return math.ceil(Fraction(match[1]) * _MULTIPLES[match[2]])


def _quantity(value: Any) -> str:
    # YAML makes `memory: 65536` an integer; Kubernetes takes both.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"must be a size in bytes such as 65536, 256Ki, 512Mi or 2Gi (got {shown(value)})")
    text = str(value)
    if quantity_bytes(text) == 0:
        raise ValueError(f"must be more than 0 bytes (got {shown(value)})")
    return text


Duration = Annotated[str, BeforeValidator(_duration)]
"""Whole numbers with a unit of `ms`, `s`, `m` or `h`, several together if need be: `500ms`, `10s`, `1m30s`."""

PositiveDuration = Annotated[str, BeforeValidator(_positive_duration)]
"""A duration longer than nothing."""

OptionalDuration = Annotated[str, BeforeValidator(_optional_duration)]
"""A duration longer than nothing, or an empty text for none."""

ObjectName = Annotated[str, AfterValidator(_object_name)]
"""The name of a Kubernetes object of the job's namespace, such as a Secret, or an empty text for none."""

Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}),
]
"""A positive number of bytes as Kubernetes writes it: `65536`, `256Ki`, `512Mi`, `2G`."""
