"""The OpenAPI document of the coordinator's API, generated from its routes and types.

`python -m checkdam.coordinator.openapi [FILE]` writes it; `docs/openapi.json` is held equal by a test.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from checkdam.coordinator.http import ROUTES, Route
from checkdam.coordinator.views import ErrorView

_PARAMETER: Final = re.compile(r"{(\w+)}")
_PATH_TYPES: Final = {"id": "integer", "request": "string"}
_COMMON_ERRORS: Final = ((401, "The token is missing or wrong."), (421, "The Host header names somebody else."))


def openapi_document() -> dict[str, Any]:
    """The document as JSON data."""
    types = [found for route in ROUTES for found in (route.answer, route.request) if found is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, ErrorView], ref_template="#/components/schemas/{name}"
    )
    for component in components.values():
        if "description" in component:
            # Interpreters differ in whether they keep a docstring's indentation.
            component["description"] = inspect.cleandoc(component["description"])
    refs = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        answer = next(refs)
        request = next(refs) if route.request is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, answer, request)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Checkdam coordinator",
            "version": "1",
            "description": "One job's coordinator. Times are ms since the epoch, durations are ms.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(components.items())),
        },
    }


def openapi_bytes() -> bytes:
    """The document as it is stored and served."""
    return msgspec.json.format(msgspec.json.encode(openapi_document()), indent=2) + b"\n"


def _operation(route: Route, answer: dict[str, Any], request: dict[str, Any] | None) -> dict[str, Any]:
    media = "text/plain" if route.answer is str else "application/json"
    responses = {str(route.status): {"description": "Success.", "content": {media: {"schema": answer}}}}
    for status, text in (*route.errors, *(() if route.open else _COMMON_ERRORS)):
        error = {"$ref": f"#/components/schemas/{ErrorView.__name__}"}
        responses[str(status)] = {"description": text, "content": {"application/json": {"schema": error}}}
    operation: dict[str, Any] = {"summary": route.summary, "responses": responses}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": _PATH_TYPES[name]}}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": {"type": "integer", "minimum": 0}}
        for name, text in route.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if request is not None:
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": request}}}
    if route.open:
        operation["security"] = []
    return operation


def main(arguments: list[str]) -> int:
    """Write the document to the file named, or print it."""
    if arguments:
        Path(arguments[0]).write_bytes(openapi_bytes())
    else:
        sys.stdout.write(openapi_bytes().decode())
    return 0


__all__ = ["main", "openapi_bytes", "openapi_document"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
