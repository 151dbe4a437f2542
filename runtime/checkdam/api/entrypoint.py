"""Calling the user's entrypoint: import its module, hand it a pipeline, take the graph.

Every process of a job does this for itself, so modules are imported under the name that the manifest gives; code is never
shipped. What goes wrong in the user's code is reported with the user's own frames and none of ours.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from checkdam.api.pipeline import Pipeline
from checkdam.core.errors import CheckdamError, EntrypointError
from checkdam.graph.model import Graph
from checkdam.operators.user import user_traceback
from checkdam.spec.streamjob import StreamJob

INLINE_FOLDER = "inline"
"""Below the run directory: where the files of `program.inline` are put on the import path."""


def load_graph(job: StreamJob, base_folder: Path, inline_folder: Path | None = None) -> Graph:
    """Build the graph of a job.

    Args:
        job: The job; its entrypoint is imported with `base_folder`, and the inline files' folder, on the import path.
        base_folder: The folder of the manifest.
        inline_folder: Where `program.inline` files may be written; needed only if there are any.

    Raises:
        EntrypointError: The module does not import, the callable is missing, or it raised.
        CheckdamError: The pipeline cannot be built.
    """
    build = load_callable(job, base_folder, inline_folder)
    return build_graph(build, job.spec.program.args, job.spec.allow_pickle, job.spec.program.entrypoint)


def build_graph(build: Any, args: dict[str, Any], allow_pickle: bool = True, entrypoint: str = "build") -> Graph:
    """Call a build function with an empty pipeline and `args`, and take the graph.

    Raises:
        EntrypointError: It raised.
        CheckdamError: The pipeline cannot be built.
    """
    pipeline = Pipeline(allow_pickle)
    try:
        build(pipeline, dict(args))
    except CheckdamError:
        raise
    except Exception as error:
        raise EntrypointError(f"the entrypoint `{entrypoint}` raised", user_traceback(error)) from error
    return pipeline.graph()


def load_callable(job: StreamJob, base_folder: Path, inline_folder: Path | None = None) -> Any:
    """Import the entrypoint's module and find its callable.

    Raises:
        EntrypointError: The module does not import, or has no such callable.
    """
    program = job.spec.program
    folders = [base_folder]
    if program.inline:
        if inline_folder is None:
            raise EntrypointError("`spec.program.inline` needs a folder to write its files to")
        folders.insert(0, _write_inline(program.inline, inline_folder))
    for folder in reversed(folders):
        text = str(folder.resolve())
        if text not in sys.path:
            sys.path.insert(0, text)
    module = _import(program.module, program.entrypoint)
    found: Any = module
    for part in program.function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        # What it has imported is of no interest, and may be hundreds.
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        names = sorted(name for name in own if callable(vars(module)[name]) and not name.startswith("_"))
        raise EntrypointError(
            f"the entrypoint `{program.entrypoint}` names no callable of module `{program.module}` "
            f"(it defines: {', '.join(names) or 'none'})"
        )
    return found


def _write_inline(files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    importlib.invalidate_caches()
    return folder


def _import(module: str, entrypoint: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise EntrypointError(
                f"the entrypoint `{entrypoint}` does not import: there is no module `{error.name}`; "
                f"searched in {', '.join(path or '.' for path in sys.path[:3])}, …"
            ) from error
        raise EntrypointError(f"the entrypoint `{entrypoint}` does not import", user_traceback(error)) from error
    except Exception as error:
        raise EntrypointError(f"the entrypoint `{entrypoint}` does not import", user_traceback(error)) from error
