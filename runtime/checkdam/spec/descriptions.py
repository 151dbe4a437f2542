"""What the fields of models are for: the docstrings below them, for the definitions and the reference pages that are made from the models.

pydantic would read them by itself (`use_attribute_docstrings`), but whenever the models are imported: looking for the source of every class took a tenth
of what a process of a pod needs to start, and none of them has a use for it.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel

from checkdam.spec.problems import models_in


def describe(model: type[BaseModel]) -> None:
    """Give the fields of a model, and of all models in it, their descriptions; its JSON schema has them from then on."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= _attribute_docstrings(base)
    for name, field in model.model_fields.items():
        for child in models_in(field.annotation):
            describe(child)
        field.description = texts.get(name)
    model.model_rebuild(force=True)


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    [definition] = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class is one
    texts = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                texts[name] = inspect.cleandoc(docstring)
    return texts


__all__ = ["describe"]
