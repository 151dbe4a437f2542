"""YAML read the way kubectl reads it, so that a manifest means the same on a laptop and in a cluster.

kubectl turns YAML into JSON: `n` and `yes` are booleans, `1e3` is a number, `1:30` and `2026-01-01` are strings, keys are always strings.
PyYAML's own rules differ in each of these. A key given twice, which PyYAML would let pass, is refused as kubectl does.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _KubectlLoader(yaml.SafeLoader):
    pass


# Tables of its own, since those of the base class are shared and hold PyYAML's rules. JSON has no sets, dates or binary data.
_KubectlLoader.yaml_implicit_resolvers = {}
_KubectlLoader.yaml_constructors = {
    tag: yaml.SafeLoader.yaml_constructors[tag]
    for tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", None)
}


def load_documents(text: str) -> list[Any]:
    """All documents of a YAML text as JSON data; empty ones are left out.

    Raises:
        ValueError: It is no YAML; the message names line and column.
    """
    try:
        return [document for document in yaml.load_all(text, Loader=_KubectlLoader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _scalar_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _scalar_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _scalar_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return str(loader.construct_scalar(node)).lower() in ("y", "yes", "true", "on")


def _key(value: Any, node: yaml.Node) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise yaml.constructor.ConstructorError(None, None, "a key must be a string", node.start_mark)


def _mapping(loader: _KubectlLoader, node: yaml.MappingNode) -> dict[str, Any]:
    _refuse_duplicates(loader, node)
    loader.flatten_mapping(node)
    return {
        _key(loader.construct_object(key, deep=True), key): loader.construct_object(value, deep=True)
        for key, value in node.value
    }


def _refuse_duplicates(loader: _KubectlLoader, node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = _key(loader.construct_object(key_node, deep=True), key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)


def _resolver(tag: str, pattern: str, first_characters: str) -> None:
    _KubectlLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), list(first_characters)
    )


_resolver("bool", "[yYnN]|[yY]es|YES|[nN]o|NO|[tT]rue|TRUE|[fF]alse|FALSE|[oO]n|ON|[oO]ff|OFF", "yYnNtTfFoO")
_resolver("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)", "-+0123456789")
_resolver(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_resolver("merge", "<<", "<")
_KubectlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_KubectlLoader.add_constructor("tag:yaml.org,2002:int", _scalar_int)
_KubectlLoader.add_constructor("tag:yaml.org,2002:float", _scalar_float)
_KubectlLoader.add_constructor("tag:yaml.org,2002:bool", _scalar_bool)
_KubectlLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
