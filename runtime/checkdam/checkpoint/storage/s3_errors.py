"""What S3's errors mean to the person who runs a job, and what they say about a write.

Servers answer with codes, botocore raises a class for each way in which a connection can fail; a user gets one sentence
with a cause and something to do. What a server says in its own words is shown only for codes that are not known here.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from checkdam.core.errors import NotFoundError, StorageError

S3_ERRORS: Final = (BotoCoreError, ClientError, Boto3Error)
"""Everything that a client raises when a request fails."""

_CREDENTIALS: Final = "give the right ones: `spec.checkpoint.storage.s3.credentialsSecret` on a cluster, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile elsewhere"
_PERMISSIONS: Final = "permit s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on what is in it"
_REGION: Final = "set `spec.checkpoint.storage.s3.region` to the bucket's region"
_LATER: Final = "look at the server; checkpoints go on when it answers again"
_SPACE: Final = "free space or raise the quota, or retain fewer checkpoints"

_CODES: Final[dict[str, tuple[str, str]]] = {
    "NoSuchBucket": ("there is no such bucket", "create the bucket, or correct the uri"),
    "InvalidBucketName": ("a bucket cannot have this name", "correct the uri"),
    "InvalidAccessKeyId": ("the server does not know the access key", _CREDENTIALS),
    "XAdminUserNotFound": ("the server does not know the access key", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _CREDENTIALS),
    "ExpiredToken": ("the session token has expired", _CREDENTIALS),
    "InvalidToken": ("the session token is not valid", _CREDENTIALS),
    "AccessDenied": ("the credentials do not permit it", _PERMISSIONS),
    "AllAccessDisabled": ("access is disabled by the server", _PERMISSIONS),
    "403": ("the credentials do not permit it, or are wrong", _PERMISSIONS),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "301": ("the bucket is in another region", _REGION),
    "RequestTimeTooSkewed": ("the clocks of this machine and of the server differ", "set the clock of this machine"),
    "NotImplemented": (
        "the server does not know this request",
        "choose storage with conditional writes and multipart uploads, such as Amazon S3 or MinIO",
    ),
    "QuotaExceeded": ("the quota is used up", _SPACE),
    "XMinioStorageFull": ("the server's disks are full", _SPACE),
}
_MISSING: Final = frozenset({"NoSuchKey", "404"})
_TAKEN: Final = frozenset({"PreconditionFailed", "412"})
_NEVER_SENT: Final = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ParamValidationError)


def code_of(error: BaseException) -> str:
    """The server's error code; empty if there was no answer."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def is_taken(error: BaseException) -> bool:
    """Whether the condition failed: the name is in use."""
    return code_of(error) in _TAKEN


def is_conflict(error: BaseException) -> bool:
    """Whether another request, for the same name or a folder that it is in, was under way: this one did nothing and may be tried again."""
    return isinstance(error, ClientError) and _status(error) == HTTPStatus.CONFLICT


def may_have_happened(error: BaseException) -> bool:
    """Whether a write that ended like this may have been done, or may still be done, by one of its attempts."""
    if not isinstance(error, ClientError):
        return not isinstance(error, _NEVER_SENT)
    about: Any = error.response.get("ResponseMetadata", {})
    # A refusal tells of the last attempt only; an earlier one may have got lost on its way.
    return about.get("RetryAttempts", 0) > 0 or _status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR


def storage_error(operation: str, where: str, error: BaseException, endpoint: str) -> StorageError:
    """What `error` is to the user.

    Args:
        operation: What was tried.
        where: The uri of what it was tried on.
        error: One of `S3_ERRORS`.
        endpoint: The server, for people; empty: Amazon's.
    """
    if code_of(error) in _MISSING:
        return NotFoundError(operation, where, "no such file")
    cause, hint = _of_answer(error) if isinstance(error, ClientError) else _of_silence(error, endpoint)
    return StorageError(operation, where, cause, hint)


def _of_answer(error: ClientError) -> tuple[str, str]:
    code = code_of(error)
    known = _CODES.get(code)
    if known is not None:
        return known
    message = str(error.response["Error"].get("Message", "")).strip().rstrip(".")[:200]
    answer = f"the server answers {code}" + (f" ({message})" if message else "")
    if _status(error) >= HTTPStatus.INTERNAL_SERVER_ERROR or code in ("SlowDown", "RequestTimeout", "TooManyRequests"):
        return f"{answer}, also to retries", _LATER
    return answer, ""


def _of_silence(error: BaseException, endpoint: str) -> tuple[str, str]:
    server = f"the server {endpoint}" if endpoint else "Amazon S3"
    reach = "look at `endpoint` and `pathStyle` in `spec.checkpoint.storage.s3` or at AWS_ENDPOINT_URL, the network, and whether the server runs"
    match error:
        case boto.NoCredentialsError():
            return "no credentials were found", _CREDENTIALS
        case boto.PartialCredentialsError():
            return "only a part of the credentials was found", _CREDENTIALS
        case boto.CredentialRetrievalError() | boto.TokenRetrievalError() | boto.ProfileNotFound():
            return f"no credentials were obtained ({type(error).__name__})", _CREDENTIALS
        case boto.NoRegionError():
            return "no region is known", _REGION
        case boto.SSLError():
            return f"TLS with {server} failed", "is it http:// instead? For an own CA set AWS_CA_BUNDLE to its file"
        case boto.EndpointConnectionError() | boto.ConnectTimeoutError() | boto.ProxyConnectionError():
            return f"{server} cannot be reached", reach
        case boto.ReadTimeoutError():
            return f"{server} did not answer in time", _LATER
        case boto.IncompleteReadError() | boto.ResponseStreamingError() | boto.ConnectionClosedError():
            return f"the connection to {server} broke, also in retries", _LATER
        case boto.InvalidEndpointDiscoveryConfigurationError() | boto.UnknownEndpointError():
            return f"{server} cannot be addressed", reach
        case _:
            return f"the request to {server} failed ({type(error).__name__})", ""


def _status(error: ClientError) -> int:
    about: Any = error.response.get("ResponseMetadata", {})
    return int(about.get("HTTPStatusCode", 0))
