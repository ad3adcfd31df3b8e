"""The model store: one folder per model digest, written once, its manifest last, never rewritten.

Reads   a bundle's files and their sha256
Writes  <model-store>/<model-name>/<model-digest>/ in S3 (`s3://bucket/prefix`) or on a volume (`pvc://claim/path`,
        mounted as a workspace)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from isotherm import contract, tekton

if TYPE_CHECKING:
    from isotherm.bundle import Bundle

DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# The same names as in the Secret that KServe's storage initialiser reads.
S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)
S3_TIMEOUT_SECONDS = 20


class Place(Protocol):
    """Where files lie under a relative name."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where it is absent."""
        ...

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file that must not exist; leave one that another writer made first."""
        ...


@dataclass(frozen=True)
class Location:
    """A parsed model-store URL and the folder of one model in it."""

    scheme: str
    root: str  # bucket or claim
    prefix: str
    model_name: str
    digest: str

    @property
    def relative(self) -> str:
        """Folder of the model inside the store."""
        return f"{self.model_name}/{self.digest.removeprefix('sha256:')}"

    @property
    def uri(self) -> str:
        """What KServe loads: the InferenceService's storageUri."""
        return f"{self.scheme}://" + "/".join(part for part in (self.root, self.prefix, self.relative) if part)


def locate(store: str, model_name: str, digest: str) -> Location:
    """Name the immutable folder of a model. Raises `tekton.BadInput` on another scheme or a name that could leave the
    store.
    """
    try:
        parts = urlsplit(store)
    except ValueError:
        parts = urlsplit("")
    prefix = parts.path.strip("/")
    if parts.scheme not in ("s3", "pvc") or not parts.netloc or parts.query or parts.fragment:
        raise tekton.BadInput(
            f"param model-store is {store[:120]!r}", remedy="give s3://bucket/prefix or pvc://claim/path"
        )
    if any(segment in ("", ".", "..") for segment in prefix.split("/") if prefix):
        raise tekton.BadInput(f"param model-store is {store[:120]!r}", remedy="give a path without . and ..")
    if not NAME.fullmatch(model_name):
        raise tekton.BadInput(
            f"param model-name is {model_name[:80]!r}",
            remedy="use lower-case letters, digits and dashes, a letter first",
        )
    if not DIGEST.fullmatch(digest):
        raise tekton.BadInput(
            f"param model-digest is {digest[:80]!r}", remedy="give the sha256 in 64 hexadecimal digits"
        )
    return Location(parts.scheme, parts.netloc, prefix, model_name, digest)


def place_for(location: Location, volume: Path | None, credentials: Path | None) -> Place:
    """Open the folder of a model: S3 through boto3, or the workspace `model-store`. Raises `tekton.BadInput` without a
    workspace.
    """
    if location.scheme == "s3":
        return Bucket(location, credentials)
    if volume is None:
        raise tekton.BadInput(
            f"model store {location.uri} is a volume, but workspace model-store is not bound",
            remedy=f"bind workspace model-store to claim {location.root}, subPath {location.prefix or '(none)'}",
        )
    return Volume(volume, location.relative)


def put(bundle: Bundle, place: Place, uri: str) -> bool:
    """Copy a bundle; True where it was new, False where the same files were there already.

    The manifest commits: files without one are an unfinished copy and are completed when equal.
    Raises `tekton.Refused` where the folder holds other content: it is never rewritten, as a rollback may need it.
    """
    stored = place.read(contract.MANIFEST_FILE)
    if stored is not None and stored != bundle.content[contract.MANIFEST_FILE]:
        raise _different(uri, contract.MANIFEST_FILE)
    for name in [*sorted(bundle.content.keys() - {contract.MANIFEST_FILE}), contract.MANIFEST_FILE]:
        wanted = bundle.content[name]
        if place.read(name) is None:
            if stored is not None:
                raise tekton.Refused(f"{uri} has lost {name}", remedy="restore the store from its backup")
            place.write_new(name, wanted)
        found = place.read(name)
        if found is None or hashlib.sha256(found).digest() != hashlib.sha256(wanted).digest():
            raise _different(uri, name)
    return stored is None


def _different(uri: str, name: str) -> tekton.Refused:
    return tekton.Refused(
        f"{uri} already holds another {name}, and a stored model is never rewritten",
        remedy="find out who wrote it; a folder that nothing serves may be deleted by hand",
    )


class Volume:
    """A model's folder on a mounted volume."""

    def __init__(self, root: Path, relative: str) -> None:
        self._folder = root / relative
        if not self._folder.resolve().is_relative_to(root.resolve()):
            raise tekton.Refused(
                f"{relative} leads out of workspace model-store", remedy="remove the symbolic link in it"
            )

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where it is absent. Raises `tekton.Refused` on a symbolic link."""
        path = self._folder / name
        if path.is_symlink():
            raise tekton.Refused(f"{path} is a symbolic link", remedy="remove it: the model store holds plain files")
        return path.read_bytes() if path.is_file() else None

    def write_new(self, name: str, content: bytes) -> None:
        """Write beside the final name, then rename: a reader sees all or nothing."""
        tekton.write_atomic(self._folder / name, content)


class Bucket:
    """A model's folder in S3."""

    def __init__(self, location: Location, credentials: Path | None) -> None:
        import boto3
        from botocore.config import Config

        given = _s3_credentials(credentials)
        session = boto3.session.Session(
            aws_access_key_id=given.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=given.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=given.get("AWS_SESSION_TOKEN"),
            region_name=given.get("AWS_DEFAULT_REGION"),
        )
        config = Config(
            connect_timeout=S3_TIMEOUT_SECONDS,
            read_timeout=S3_TIMEOUT_SECONDS,
            retries={"mode": "standard", "max_attempts": 5},
            request_checksum_calculation="when_required",  # servers other than AWS know no trailing checksums
            response_checksum_validation="when_required",
        )
        self._client: Any = session.client("s3", endpoint_url=given.get("AWS_ENDPOINT_URL"), config=config)
        self._bucket = location.root
        self._prefix = "/".join(part for part in (location.prefix, location.relative) if part)

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes; None where it is absent. Raises `tekton.Unavailable`."""
        key = f"{self._prefix}/{name}"
        answer = self._call("get_object", allow=("NoSuchKey", "404"), Key=key)
        if answer is None:
            return None
        content: bytes = answer["Body"].read()
        return content

    def write_new(self, name: str, content: bytes) -> None:
        """Put with `If-None-Match: *`, or, on a server without it, only after a HEAD found nothing."""
        key, options = f"{self._prefix}/{name}", {"Body": content, "ContentType": "application/octet-stream"}
        taken = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
        unknown = ("NotImplemented", "501")
        if self._call("put_object", allow=(*taken, *unknown), Key=key, IfNoneMatch="*", **options) is not None:
            return
        if self._call("head_object", allow=("NoSuchKey", "NotFound", "404"), Key=key) is None:
            self._call("put_object", allow=(), Key=key, **options)

    def _call(self, operation: str, *, allow: tuple[str, ...], **arguments: Any) -> Mapping[str, Any] | None:
        """Run one S3 call; None where it failed with a code that the caller expects."""
        from botocore.exceptions import BotoCoreError, ClientError

        what = f"{operation} s3://{self._bucket}/{arguments['Key']}"
        try:
            answer: Mapping[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **arguments)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            if code in allow or ((code.isdigit() or not code) and status in allow):
                return None
            if status in ("401", "403"):
                raise tekton.Refused(
                    f"the S3 server refuses {what} ({code})",
                    remedy="check workspace model-store-credentials and the bucket's policy",
                ) from error
            if code == "NoSuchBucket":
                raise tekton.BadInput(
                    f"there is no bucket {self._bucket}", remedy="create it or correct param model-store"
                ) from error
            raise tekton.Unavailable(f"{what} failed ({code or status})", remedy="run again later") from error
        except BotoCoreError as error:
            raise tekton.Unavailable(
                f"{what} failed ({error})",
                remedy="check AWS_ENDPOINT_URL in workspace model-store-credentials and that S3 is up",
            ) from error


def _s3_credentials(folder: Path | None) -> dict[str, str]:
    """The files of workspace `model-store-credentials`, named as KServe's Secret names them; else boto3 searches."""
    if folder is None:
        return {}
    return {
        name: text
        for name in S3_CREDENTIALS
        if (folder / name).is_file() and (text := (folder / name).read_text(encoding="utf-8").strip())
    }
