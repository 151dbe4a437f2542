"""Deleting files one by one, for storages that have folders, which are to go when they are empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from checkdam.core.errors import NotFoundError, StorageError


def delete_each(paths: Iterable[str], delete: Callable[[str], object], remove_if_empty: Callable[[str], None]) -> None:
    """Delete all files, then the folders that they have left empty; one that cannot be deleted keeps no other from it.

    Args:
        paths: What is to go.
        delete: Deletes a file. `NotFoundError` says that it was gone already.
        remove_if_empty: Is given each folder that a file has left; `""` is the top.

    Raises:
        StorageError: The first that `delete` raised, when all others have been tried.
    """
    first: StorageError | None = None
    folders: set[str] = set()
    for path in paths:
        try:
            delete(path)
        except NotFoundError:
            continue
        except StorageError as error:
            first = first or error
        else:
            folders.add(path.rpartition("/")[0])
    for folder in folders:
        remove_if_empty(folder)
    if first is not None:
        raise first
