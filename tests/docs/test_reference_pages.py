"""The reference pages say what the code says, and the public names keep their promises about themselves."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from types import ModuleType

import pytest
from doc_blocks import ROOT

import checkdam


@pytest.fixture(scope="module")
def make_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "api.md", "metrics.md", "operator-metrics.md", "operator-settings.md"])
def test_a_reference_page_is_what_the_code_says(make_reference: ModuleType, name: str) -> None:
    page = (ROOT / "docs" / "reference" / name).read_text()
    assert page == make_reference.pages()[name], "run `python docs/make_reference.py`"


def test_every_public_name_is_on_the_page_once(make_reference: ModuleType) -> None:
    listed = [name for names in make_reference.GROUPS.values() for name in names]
    assert sorted(listed) == sorted(checkdam.__all__)


def test_the_public_names_are_sorted() -> None:
    assert list(checkdam.__all__) == sorted(checkdam.__all__)


@pytest.mark.parametrize("name", checkdam.__all__)
def test_a_public_name_and_its_methods_have_docstrings(name: str) -> None:
    found = getattr(checkdam, name)
    missing = [] if found.__doc__ else [name]
    if inspect.isclass(found):
        for member, value in vars(found).items():
            inherited = any(getattr(vars(base).get(member), "__doc__", None) for base in found.__mro__[1:])
            if inspect.isfunction(value) and not member.startswith("_") and not value.__doc__ and not inherited:
                missing.append(f"{name}.{member}")
    assert missing == []
