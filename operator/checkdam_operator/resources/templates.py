"""What a user's podTemplate changes in a pod.

A template is merged the way Kubernetes merges a patch: mappings field by field, lists of things that have a name by that name, other lists
by adding to them; a field that the template sets to null is taken out of ours. Where two values of a named thing cannot be mixed, such as
the source of a volume, the template's replaces ours. Some fields are not the template's to change, because the job would not work any more:
they are refused by name and never silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from checkdam.spec.checks import shown
from checkdam.spec.problems import field_path
from checkdam_operator.resources.names import CONTAINER

Location = tuple[str | int, ...]
"""A path into a manifest, field by field."""

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "tolerations": ("key", "effect"),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""list → what its items are known by."""

_OPTIONAL_KEYS: Final = frozenset({"key", "effect"})
"""A toleration without them tolerates everything."""

_MIXED: Final = frozenset({"containers", "initContainers"})
"""Lists whose items are merged. An item of the others replaces the one with the same key: it cannot have two values or two sources."""

_OWN_CONTAINER_FIELDS: Final = {
    "command": "Checkdam's own command runs there",
    "args": "Checkdam's own command runs there",
    "image": "`spec.image` says it",
}

_KEPT: Final = frozenset({"metadata", "spec", "labels", "annotations", *_OWN_CONTAINER_FIELDS})
"""What null does not take out: a pod needs it."""


@dataclass(frozen=True)
class Reserved:
    """Names of a pod that a template must not take.

    Attributes:
        labels, annotations: Keys of its metadata.
        env: Variables of Checkdam's container.
        volumes: Volumes of the pod.
        mounts: Paths in Checkdam's container.
    """

    labels: Collection[str]
    annotations: Collection[str]
    env: Collection[str]
    volumes: Collection[str]
    mounts: Collection[str]


def merge_template(
    pod: dict[str, Any], template: Mapping[str, Any], reserved: Reserved, location: Location
) -> list[str]:
    """Change `pod` as a template asks for.

    Args:
        pod: metadata and spec of the pod that would be made without it.
        template: What the user wrote.
        reserved: What it must not touch.
        location: Where it stands in the manifest.

    Returns:
        What is wrong with the template, one sentence each; if anything is, `pod` is of no use.
    """
    merge = _Merge([])
    merge.into(pod, {name: value for name, value in template.items() if name in ("metadata", "spec")}, location)
    return [*merge.problems, *_refusals(template, reserved, location)]


def merge_field(owner: dict[str, Any], name: str, given: Any, location: Location) -> list[str]:
    """The same for one field of a mapping within a pod.

    Args:
        owner: What has the field, changed in place.
        name: The field's name.
        given: Its value, as the user wrote it.
        location: Of `owner` in the manifest.

    Returns:
        What is wrong with `given`, one sentence each.
    """
    merge = _Merge([])
    merge.into(owner, {name: given}, location)
    return merge.problems


@dataclass
class _Merge:
    problems: list[str]

    def into(self, ours: dict[str, Any], given: Mapping[str, Any], location: Location) -> None:
        for name, value in given.items():
            here, mine = (*location, name), ours.get(name)
            if name in _KEYS:
                if value is not None:
                    ours[name] = self._keyed(name, mine or [], value, here)
            elif value is None:
                if name not in _KEPT:
                    ours.pop(name, None)
            elif isinstance(mine, dict):
                if self._is(value, Mapping, "a mapping", here):
                    self.into(mine, value, here)
            elif isinstance(mine, list):
                if self._is(value, list, "a list", here):
                    mine += [deepcopy(item) for item in value if item not in mine]
            else:
                ours[name] = deepcopy(value)

    def _keyed(self, list_name: str, ours: list[Any], given: Any, location: Location) -> list[Any]:
        if not self._is(given, list, "a list", location):
            return ours
        made = {_key(list_name, item): item for item in ours}
        for position, item in enumerate(given):
            here = (*location, position)
            if not self._is(item, Mapping, "a mapping", here) or not self._has_key(list_name, item, here):
                continue
            key = _key(list_name, item)
            if list_name in _MIXED:
                self.into(made.setdefault(key, {}), item, here)
            else:
                made[key] = deepcopy(dict(item))
        return list(made.values())

    def _has_key(self, list_name: str, item: Mapping[str, Any], location: Location) -> bool:
        for name in _KEYS[list_name]:
            value = item.get(name)
            if not isinstance(value, str) and not (value is None and name in _OPTIONAL_KEYS):
                self.problems.append(f"`{field_path((*location, name))}` must be a string (got {_shown(value)})")
                return False
        return True

    def _is(self, value: Any, kind: type, words: str, location: Location) -> bool:
        if isinstance(value, kind):
            return True
        # What stands in an environment variable may be a secret, and messages end up in conditions.
        got = "" if "env" in location else f" (got {_shown(value)})"
        self.problems.append(f"`{field_path(location)}` must be {words}{got}")
        return False


def _key(list_name: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(item.get(name) or "" for name in _KEYS[list_name])


def _shown(value: Any) -> str:
    return "nothing" if value is None else shown(value)


def _refusals(template: Mapping[str, Any], reserved: Reserved, location: Location) -> Iterator[str]:
    for name in template:
        if name not in ("metadata", "spec"):
            yield f"`{field_path((*location, name))}` must be left out: a podTemplate has `metadata` and `spec`"
    metadata, spec = as_mapping(template.get("metadata")), as_mapping(template.get("spec"))
    yield from _metadata_refusals(metadata, reserved, (*location, "metadata"))
    inside = (*location, "spec")
    if spec.get("restartPolicy") not in (None, "Always"):
        yield f"`{field_path((*inside, 'restartPolicy'))}` must be 'Always' (got {shown(spec['restartPolicy'])})"
    yield from taken_names(spec, "volumes", reserved.volumes, inside)
    for position, container in enumerate(_mappings(spec.get("containers"))):
        if container.get("name") == CONTAINER:
            yield from _container_refusals(container, reserved, (*inside, "containers", position))


def _metadata_refusals(metadata: Mapping[str, Any], reserved: Reserved, location: Location) -> Iterator[str]:
    for name in metadata:
        if name not in ("labels", "annotations") and metadata[name] is not None:
            yield f"`{field_path((*location, name))}` must be left out: the operator gives it to the pod"
    for field, taken in (("labels", reserved.labels), ("annotations", reserved.annotations)):
        for key, value in as_mapping(metadata.get(field)).items():
            here = field_path((*location, field, key))
            if key in taken:
                yield f"`{here}` must be left out: the operator finds the pod by it"
            elif value is not None and not isinstance(value, str):
                yield f"`{here}` must be a string (got {shown(value)})"


def _container_refusals(container: Mapping[str, Any], reserved: Reserved, location: Location) -> Iterator[str]:
    for name, why in _OWN_CONTAINER_FIELDS.items():
        if container.get(name) is not None:
            yield f"`{field_path((*location, name))}` must be left out: {why}"
    yield from taken_names(container, "env", reserved.env, location)
    yield from taken_names(
        container, "volumeMounts", reserved.mounts, location, lambda path: "/" + "/".join(filter(None, path.split("/")))
    )


def taken_names(
    parent: Mapping[str, Any],
    list_name: str,
    taken: Collection[str],
    location: Location,
    normal: Callable[[str], str] = str,
) -> Iterator[str]:
    """A sentence for each item of a list that calls itself what Checkdam needs for itself.

    Args:
        parent: What the list is in.
        list_name: Its name.
        taken: What items must not be called.
        location: Of `parent` in the manifest.
        normal: Brings a name into the form that it has in `taken`.
    """
    [key] = _KEYS[list_name]
    for position, item in enumerate(_mappings(parent.get(list_name))):
        value = item.get(key)
        if isinstance(value, str) and normal(value) in taken:
            here = field_path((*location, list_name, position, key))
            yield f"`{here}` must be another one: Checkdam needs this one itself (got {shown(value)})"


def as_mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, or else an empty one, for what has been or will be refused for its shape."""
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [as_mapping(item) for item in value] if isinstance(value, list) else []
