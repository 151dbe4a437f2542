"""How S3 is reached: clients with our timeouts and retries, made per process, and where their credentials come from.

There are two clients because two things must not wait alike. *Objects* are small: an entry of the journal, a listing, a
delete; a server that does not answer them soon is not going to. *Files* of checkpoints may be large, and a server may think
for a while before it says that it has put the parts of one together. The client of files puts everything under a condition, so
that a stored file is never replaced.

Retries are botocore's own (`standard`: backoff with full jitter, and a budget that stops them when nothing gets through).
Checksums stay on: a CRC of every body that is stored, which the server compares. Over plain http boto3 would hash bodies a second
time, for the signature. Objects are signed so; files are not: `_metadata`, which is an object, has the SHA-256 of each, and a
restore checks it, so nobody on the way can change one unnoticed, and hashing them once is enough, in either direction.
"""

from __future__ import annotations

import logging
import os
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.loaders import create_loader
from s3transfer.manager import TransferConfig, TransferManager

from checkdam.checkpoint.storage.s3_downloads import Downloads
from checkdam.core.errors import StorageError
from checkdam.spec.checkpoint import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_SIZE_BYTES: Final = 8 * 1024 * 1024
"""Files larger than this travel in parts of this size, several at a time. 10,000 parts are S3's limit; s3transfer makes the parts of
a file beyond 80 GiB larger by itself."""

CONNECT_TIMEOUT_S: Final = 3
"""A server on the same network accepts in milliseconds; another address is tried soon."""

OBJECTS_READ_TIMEOUT_S: Final = 10
"""Silence after which a request for a small object is given up."""

TRANSFERS_READ_TIMEOUT_S: Final = 60
"""Silence after which a part of a file, or putting the parts together, is given up."""

ATTEMPTS: Final = 4
"""Of each request, the first included. Pauses between them are random, up to 1, 2 and 4 s; so a write of the journal ends within
a minute at the very latest."""

SECRETS_FOLDER_VARIABLE: Final = "CHECKDAM_SECRETS_DIR"
SECRETS_FOLDER: Final = Path("/var/run/secrets/checkdam")
"""Where Secrets are mounted, each in a folder of its name, unless the variable says otherwise."""

_KEY_ID: Final = "AWS_ACCESS_KEY_ID"
_SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"
_TOKEN: Final = "AWS_SESSION_TOKEN"
_LOADER: Final = create_loader()
"""Reads what describes S3, and keeps it: that takes longer than all else about a client."""

_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_LOGGERS: Final = ("boto3", "botocore", "s3transfer", "urllib3")


class S3Clients:
    """The clients of one storage, made when first used; safe for threads.

    A forked process makes its own: sockets and threads of its parent are not its to use. A process may fork while no other
    thread of it is just making a client, which is so for supervisors, since they have one thread.

    Args:
        uri: The storage's, for errors.
        options: How it is reached.
        parallel_transfers: So many files, or parts of files, travel at the same time.
    """

    def __init__(self, uri: str, options: S3Options, parallel_transfers: int) -> None:
        self._uri = uri
        self._options = options
        self._parallel_transfers = parallel_transfers
        self._lock = threading.Lock()
        self._pid = 0
        self._session: boto3.session.Session | None = None
        self._objects: S3Client | None = None
        self._files: S3Client | None = None
        self._uploads: TransferManager | None = None
        self._downloads: Downloads | None = None
        _read_descriptions()

    @property
    def endpoint(self) -> str:
        """The server, for people, without a password that somebody put into it; empty: Amazon's."""
        variables = (os.environ.get(name, "") for name in _ENDPOINT_VARIABLES)
        url = urlsplit(self._options.endpoint or next(filter(None, variables), ""))
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else ""

    def objects(self) -> S3Client:
        """The client for everything but files."""
        with self._lock:
            self._forget_if_forked()
            if self._objects is None:
                self._objects = self._make(OBJECTS_READ_TIMEOUT_S)
            return self._objects

    def uploads(self) -> TransferManager:
        """Stores files, in parallel parts, by a client that refuses to replace one."""
        with self._lock:
            self._forget_if_forked()
            if self._uploads is None:
                config = TransferConfig(
                    multipart_threshold=PART_SIZE_BYTES + 1,
                    multipart_chunksize=PART_SIZE_BYTES,
                    max_request_concurrency=self._parallel_transfers,
                    max_submission_concurrency=self._parallel_transfers,
                )
                self._uploads = TransferManager(self._client_for_files(), config)
            return self._uploads

    def downloads(self) -> Downloads:
        """Brings files, in parallel parts."""
        with self._lock:
            self._forget_if_forked()
            if self._downloads is None:
                self._downloads = Downloads(self._client_for_files(), PART_SIZE_BYTES, self._parallel_transfers)
            return self._downloads

    def _client_for_files(self) -> S3Client:
        if self._files is None:
            self._files = self._make(TRANSFERS_READ_TIMEOUT_S, for_files=True)
            for operation in ("PutObject", "CompleteMultipartUpload"):
                self._files.meta.events.register(f"before-parameter-build.s3.{operation}", _only_if_free)
        return self._files

    def _forget_if_forked(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._session = self._objects = self._files = None
            self._uploads = self._downloads = None

    def _make(self, read_timeout_s: int, for_files: bool = False) -> S3Client:
        if self._session is None:
            self._session = self._make_session()
        options = self._options
        style = self._addressing_style()
        settings: Any = {"addressing_style": style} if style else {}
        if for_files:
            settings["payload_signing_enabled"] = False
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=max(10, 2 * self._parallel_transfers),
            s3=settings or None,
            response_checksum_validation="when_required" if for_files else None,
            user_agent_extra="checkdam",
        )
        region = options.region or self._session.region_name or ("us-east-1" if self.endpoint else None)
        try:
            return self._session.client("s3", endpoint_url=options.endpoint or None, region_name=region, config=config)
        except ValueError as error:
            cause = "the server's URL is not valid"
            hint = f"write it like https://minio.example:9000, in {' or '.join(_ENDPOINT_VARIABLES)} too"
            raise StorageError("open", self._uri, cause, hint) from error

    def _addressing_style(self) -> Literal["path", "virtual"] | None:
        """Where requests name the bucket; `None` leaves it to the user's own settings and botocore."""
        if self._options.path_style or _needs_path_style(self.endpoint):
            return "path"
        return "virtual" if self._options.endpoint else None

    def _make_session(self) -> boto3.session.Session:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            # At DEBUG they log requests with their session tokens, at INFO where they found the keys, again and again.
            logger.setLevel(max(logger.level, logging.WARNING))
        core = botocore.session.Session()
        core.register_component("data_loader", _LOADER)
        folder = secret_folder(self._options.credentials_secret)
        if folder is not None:
            provider = _Provider(MountedCredentials(folder, self._uri))
            core.get_component("credential_provider").insert_before("env", provider)
        return boto3.session.Session(botocore_session=core)


def _read_descriptions() -> None:
    """Read what clients are made of, once for all: a process that is forked later, to take up work again, has it already."""
    for kind in ("service-2", "endpoint-rule-set-1"):
        _LOADER.load_service_model("s3", kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration"):
        _LOADER.load_data(name)


class MountedCredentials(Credentials):
    """Credentials from the files of a mounted Secret, read again when they change: keys are rotated while jobs run.

    Once they were whole, the last that were are used until others are. So a request that fails here has never been sent, not even by
    an earlier attempt: `create` relies on that.

    Args:
        folder: With a file for each key of the Secret.
        uri: The storage's, for errors.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__("", "", method="checkdam-secret")
        self._folder = folder
        self._uri = uri
        # In one assignment, since threads sign at the same time: no request has a key of before and a secret of after.
        self._current: tuple[object, ReadOnlyCredentials] = None, ReadOnlyCredentials("", "", None)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """What a request is signed with.

        Raises:
            StorageError: A file is missing, empty or not readable, and always was; names the file, never its content.
        """
        while True:
            seen = self._state()
            state, current = self._current
            if state == seen:
                return current
            try:
                fresh = ReadOnlyCredentials(
                    self._read(_KEY_ID), self._read(_SECRET_KEY), self._read(_TOKEN, optional=True) or None
                )
            except StorageError:
                if state is None:
                    raise
                return current
            if self._state() == seen:  # otherwise it has changed while we read its files, one after the other
                self._current = seen, fresh

    def _state(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(self._identity(name) for name in (_KEY_ID, _SECRET_KEY, _TOKEN))

    def _identity(self, name: str) -> tuple[int, int] | None:
        try:
            status = (self._folder / name).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _read(self, name: str, *, optional: bool = False) -> str:
        file = self._folder / name
        try:
            content = file.read_text("utf-8").strip()
        except FileNotFoundError:
            content = ""
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(f"{file} cannot be read ({type(error).__name__})") from None
        if not content and not optional:
            raise self._error(f"{file} is missing or empty")
        return content

    def _error(self, cause: str) -> StorageError:
        hint = f"give the Secret `{self._folder.name}` of `spec.checkpoint.storage.s3.credentialsSecret` the keys {_KEY_ID} and {_SECRET_KEY}"
        return StorageError("sign in to", self._uri, cause, hint)


class _Provider:
    """Makes botocore's chain begin with credentials that we have."""

    METHOD = CANONICAL_NAME = "checkdam-secret"

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


def secret_folder(name: str) -> Path | None:
    """Where the Secret `name` is mounted; `None` without a name, or where no Secrets are mounted at all, as on a laptop."""
    given = os.environ.get(SECRETS_FOLDER_VARIABLE, "")
    root = Path(given) if given else SECRETS_FOLDER
    if not name or not (given or root.exists()):
        return None
    return root / name


def _needs_path_style(endpoint: str) -> bool:
    """Whether a bucket's name cannot be put in front of the server's."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _only_if_free(params: dict[str, Any], **_: object) -> None:
    params["IfNoneMatch"] = "*"
