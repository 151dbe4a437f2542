"""The six verbs in which everything above speaks to a cluster.

`client.KubeClient` carries them out on a real API server; tests and the simulated world have their own. Objects are plain dictionaries. An object that was
read is shared with the cache and must not be changed.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from checkdam_operator.kube.kinds import Kind

FIELD_MANAGER: Final = "checkdam-operator"
"""The name under which the operator owns fields that it applies."""

Object = dict[str, Any]
"""One object of the API server, as its JSON says."""

Objects = list[Object]
"""Several of them. (Inside the classes below, `list` is the verb.)"""


class Cluster(Protocol):
    """A Kubernetes cluster.

    All verbs raise the errors of `checkdam_operator.kube.errors`; each of them may raise `UnavailableError` and `ForbiddenError`.
    """

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The object as the API server has it.

        Raises:
            NotFoundError: There is none.
        """
        ...

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        """All objects of a kind as of one moment, and the resourceVersion of that moment.

        Args:
            kind: Which.
            namespace: Where; `None` for everywhere.
            labels: Label selector.
            fields: Field selector.
        """
        ...

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Make an object; returns what was made.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidError: The object is wrong.
        """
        ...

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "") -> Object:
        """Make the object have these fields, and drop those that an earlier apply set and this one leaves out; returns the object.

        Takes fields over from whoever else has set them. With `metadata.resourceVersion` in the body it holds only for that version.

        Raises:
            ConflictError: The object has another resourceVersion than the body says.
            InvalidError: The object is wrong.
            NotFoundError: Of a subresource: there is no such object.
        """
        ...

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Change the fields that the merge patch names, for what `apply` cannot do; returns the object.

        Raises:
            ConflictError: The object has another resourceVersion than the patch says.
            NotFoundError: There is no such object.
        """
        ...

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None) -> None:
        """Have an object deleted. That it is gone, or that the name now belongs to another object than `uid`, is success.

        Args:
            kind: Which.
            namespace: Where.
            name: Its name.
            uid: Delete it only if this is its uid.
            grace_s: Grace period of a pod; its own if `None`.
        """
        ...
