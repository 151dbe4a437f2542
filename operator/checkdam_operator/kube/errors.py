"""What an answer of the API server means to the operator.

::

    KubeError
    ├── NotFoundError        no such object (or no such kind)
    ├── ConflictError        the object has changed since it was read, or a precondition does not hold
    │   └── AlreadyExistsError   the name is taken
    ├── ForbiddenError       not allowed: missing permission, exhausted quota, a namespace that is being deleted, an admission policy
    ├── InvalidError         the object is wrong; the same request will never succeed
    ├── ExpiredError         a list went on for too long and must begin anew
    └── UnavailableError     nobody knows: no answer, too many requests, a server error; the same request may succeed later

Only `UnavailableError` leaves open whether the request was carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkdam.core.errors import CheckdamError


class KubeError(CheckdamError):
    """A request to the API server failed.

    Args:
        status: The HTTP status; 0 if there was no answer.
        reason: The API server's word for it, such as `AlreadyExists`.
        message: The API server's sentence.
        retry_after_s: How long the API server asks to wait; `None` if it does not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(f"{message} ({status} {reason})" if status else f"{message} ({reason})")


class NotFoundError(KubeError):
    """There is no such object."""


class ConflictError(KubeError):
    """The object has changed since it was read, or a precondition does not hold."""


class AlreadyExistsError(ConflictError):
    """The name is taken, if only by an object that is on its way out."""


class ForbiddenError(KubeError):
    """The request is not allowed; the message says by what."""

    @property
    def quota(self) -> bool:
        """Whether a ResourceQuota is exhausted, which other objects going away may cure."""
        return "exceeded quota" in self.message


class InvalidError(KubeError):
    """The object is wrong; the same request will never succeed."""


class ExpiredError(KubeError):
    """A paged list went on for too long and must begin anew."""


class UnavailableError(KubeError):
    """No answer, too many requests or a server error: the request may or may not have been carried out."""


_BY_STATUS: Mapping[int, type[KubeError]] = {
    400: InvalidError,
    # Tokens of service accounts rotate; a refused one is read afresh with the next request.
    401: UnavailableError,
    403: ForbiddenError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    410: ExpiredError,
    413: InvalidError,
    422: InvalidError,
    429: UnavailableError,
}


def error_of(status: int, body: Any, retry_after: str = "") -> KubeError:
    """The error for an answer.

    Args:
        status: The HTTP status, 400 or more.
        body: The decoded body: a `Status` object, or the text that a proxy in between wrote.
        retry_after: The header of that name, as it came.
    """
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    reason = str(fields.get("reason") or f"HTTP{status}")
    words = body if isinstance(body, str) else ""
    message = str(fields.get("message") or words or "the API server gave no reason")
    if reason == "AlreadyExists":
        cls: type[KubeError] = AlreadyExistsError
    elif status >= 500:
        cls = UnavailableError
    else:
        cls = _BY_STATUS.get(status, KubeError)
    # The header may also be a date; the API server never sends one.
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    return cls(status, reason, message, seconds)
