"""What a single value must be, said once for all who check it.

A `Check` holds a rule twice, as a Python function for the command line and the operator, and as a CEL expression for the API server, together
with the one sentence that both answer with. As metadata of a field's type it makes pydantic apply the function, and puts the
expression into the JSON schema, from where it gets into the CRD (see `checkdam.spec.structural`). CEL rather than the schema's own `pattern`, whose
message is a regular expression. Regular expressions are written in what Python and RE2 share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

CHECKS: Final = "x-checkdam-checks"
"""Key of a JSON schema under which its checks stand, as CEL: `cel`, `must`, and `got`, what of `self` is shown, or an empty text."""

SHOWN_LIMIT: Final = 200
"""So many characters of a value are shown."""


def shown(value: Any) -> str:
    """A value as error messages show it: strings in single quotes, everything else as JSON, cut to 200 characters."""
    if isinstance(value, str):
        text = _cut(value)
        return f"'{text}'" if text.isprintable() else repr(text)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number.
    return _cut(json.dumps(value, default=repr, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}…"


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Check:
    """What a value must be.

    Attributes:
        holds: Whether a value is right.
        cel: The same of `self`, as a CEL expression.
        must: The sentence for one that is not, beginning with "must"; the field's name is put before it and the value behind it.
        before_type: Look at the value before its type is looked at, so that this sentence stands for a wrong type too.
        culprit: The part of a wrong value that is shown; None: nothing is shown, since it may be a secret.
        culprit_cel: The same as a CEL expression on `self`.
    """

    holds: Callable[[Any], bool]
    cel: str
    must: str
    before_type: bool = False
    culprit: Callable[[Any], Any] | None = _itself
    culprit_cel: str = "self"

    def apply(self, value: Any) -> Any:
        """The value, if it is right.

        Raises:
            ValueError: It is not; the message is the sentence.
        """
        if not self.holds(value):
            got = f" (got {shown(self.culprit(value))})" if self.culprit else ""
            raise ValueError(f"{self.must}{got}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if self.before_type:
            return core_schema.no_info_before_validator_function(self.apply, handler(source))
        return core_schema.no_info_after_validator_function(self.apply, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        check = {"cel": self.cel, "must": self.must, "got": self.culprit_cel if self.culprit else ""}
        return {**schema, CHECKS: [*schema.get(CHECKS, ()), check]}


def cel_matches(value: str, pattern: str) -> str:
    """The CEL expression for: all of the string `value`, an expression too, is as the pattern says."""
    return f"{value}.matches(r'^(?:{pattern})$')"


def matching(pattern: str, must: str, *, optional: bool = False, before_type: bool = False) -> Check:
    """The check of texts that are as a regular expression says as a whole; with `optional`, an empty text is right too."""
    whole = f"(?:{pattern})?" if optional else pattern
    compiled = re.compile(whole, re.ASCII)
    return Check(
        holds=lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None,
        cel=cel_matches("self", whole),
        must=must,
        before_type=before_type,
    )
