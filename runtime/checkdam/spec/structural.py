"""From pydantic's JSON schema to the structural schema that a CRD may hold.

The API server understands a part of JSON schema and adds words of its own. Here references are written out, `null` is left to pruning, defaults are
expanded down to the last field (the server checks a default before it fills in those below it), and whatever has a
sentence of ours becomes a CEL rule, since the server's own sentences for bounds and patterns are other ones than the command line's.
A keyword that is not known here is an error, so that nothing of a model gets lost unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from checkdam.spec.cel import Rule, cel_text, cel_value
from checkdam.spec.checks import CHECKS
from checkdam.spec.descriptions import describe
from checkdam.spec.problems import BOUND_WORDS

Schema = dict[str, Any]

_DROPPED: Final = frozenset(("title", "examples", "additionalProperties", "anyOf", "$ref", "$defs", "const", CHECKS))
_KEPT: Final = ("enum", "maxItems", "maxLength", "maxProperties", "required", "format")
_BOUNDS: Final = {"minimum": ("ge", ">="), "maximum": ("le", "<=")}
_TRANSLATED: Final = frozenset(("type", "description", "default", "properties", "items", "minLength", *_BOUNDS))
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_RULES: Final = "x-kubernetes-validations"


def structural_schema(model: type[BaseModel], path: str, *, written_by_users: bool) -> Schema:
    """The structural schema of a model.

    Args:
        model: Its fields get their descriptions.
        path: Where the model stands in the resource, such as `spec`; sentences begin with it.
        written_by_users: Whether it gets defaults and rules; a status does not.

    Raises:
        ValueError: The model holds something that cannot be put into a CRD.
    """
    describe(model)
    schema = model.model_json_schema(mode="validation")
    return _Walk(schema.get("$defs", {}), written_by_users).translate(schema, path)


@dataclass(frozen=True)
class _Walk:
    definitions: Mapping[str, Schema]
    written_by_users: bool

    def translate(self, schema: Schema, path: str) -> Schema:
        schema = self._resolved(schema)
        unknown = schema.keys() - _DROPPED - set(_KEPT) - _TRANSLATED
        if strange := [name for name in sorted(unknown) if not name.startswith("x-kubernetes-")]:
            raise ValueError(f"`{path}` must use keywords that a CRD can hold (got {', '.join(strange)})")
        made: Schema = {}
        if "type" in schema:
            made["type"] = schema["type"]
        if "description" in schema:
            made["description"] = " ".join(schema["description"].split())
        if self.written_by_users and schema.get("default") is not None:
            made["default"] = without_nulls(schema["default"])
        made |= {name: schema[name] for name in _KEPT if name in schema}
        made |= {name: value for name, value in schema.items() if name.startswith("x-kubernetes-")}
        if "const" in schema:
            made["enum"] = [schema["const"]]
        if schema.get("type") == "object":
            made |= self._members(schema, path)
        if "items" in schema:
            made["items"] = self.translate(schema["items"], f"{path}[]")
        if self.written_by_users and (rules := list(_rules(schema, path))):
            made[_RULES] = [rule.as_validation() for rule in rules]
        return made

    def _members(self, schema: Schema, path: str) -> Schema:
        made: Schema = {}
        if "properties" in schema:
            made["properties"] = {
                name: self.translate(member, f"{path}.{name}") for name, member in schema["properties"].items()
            }
        others = schema.get("additionalProperties", False)
        if others is True:
            made[_PRESERVE] = True
        elif others:
            made["additionalProperties"] = self.translate(others, f"{path}[]")
        return made

    def _resolved(self, schema: Schema) -> Schema:
        """Without `$ref` and `anyOf`; what stands beside them wins."""
        if "$ref" in schema:
            referred = self.definitions[schema["$ref"].removeprefix("#/$defs/")]
            return self._resolved({**referred, **{name: value for name, value in schema.items() if name != "$ref"}})
        if "anyOf" in schema and _INT_OR_STRING not in schema:
            choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
            if len(choices) != 1:
                raise ValueError(f"a field must have one type in a CRD (got {schema['anyOf']})")
            return self._resolved({**choices[0], **{name: value for name, value in schema.items() if name != "anyOf"}})
        return schema


def without_nulls(value: Any) -> Any:
    """JSON data without the members of mappings that are null."""
    if isinstance(value, Mapping):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return value


def _rules(schema: Schema, path: str) -> Iterator[Rule]:
    # The API server puts the whole path, with the index, before what is said about a part of a list.
    field = "" if "[]" in path else f"`{path}` "
    secret = ".env[]" in path
    if schema.get("minLength"):
        yield Rule("self.size() > 0", f"{field}must not be empty" + ("" if secret else " (got '')"))
    for keyword, (bound, comparison) in _BOUNDS.items():
        if keyword in schema:
            yield Rule(
                f"self {comparison} {_number(schema, keyword)}",
                f"{field}must be {BOUND_WORDS[bound]} {schema[keyword]:.15g} (got {{}})",
                (cel_value("self"),),
            )
    for check in schema.get(CHECKS, ()):
        got = check["got"]
        shown = " (got {})" if got else ""
        yield Rule(check["cel"], f"{field}{check['must']}{shown}", (_shown(schema, got),) if got else ())


def _number(schema: Schema, keyword: str) -> str:
    return f"{schema[keyword]:.1f}" if schema["type"] == "number" else str(schema[keyword])


def _shown(schema: Schema, value: str) -> str:
    if _INT_OR_STRING in schema:
        return f"type({value}) == string ? {cel_text(value)} : {cel_value(value)}"
    return cel_text(value)
