"""Client of an S3-compatible object store.

Credentials and endpoint are those of boto3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or a role),
AWS_ENDPOINT_URL_S3, AWS_REGION.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.common.errors import PlatformError

_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"}
)
_KEYS_PER_CALL: Final = 1000


class ObjectStore:
    """Objects under one prefix; keys are relative to it. Every method raises
    PlatformError("store_unavailable").
    """

    def __init__(self, url: str) -> None:
        """`url` is s3://bucket/prefix."""
        parts = urlsplit(url)
        self.url, self._bucket = url, parts.netloc
        self._prefix = f"{parts.path.strip('/')}/".lstrip("/")
        self._client: Any = boto3.client("s3", config=_CONFIG)

    def put(self, key: str, file: Path) -> None:
        """Store a file, in parts if it is large; readers see the old or the new object."""
        with self._translating_errors(f"store {key}"):
            self._client.upload_file(str(file), self._bucket, self._prefix + key)

    def get(self, key: str, file: Path) -> None:
        """Download an object to a file; creates its directory."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._translating_errors(f"fetch {key}"):
            self._client.download_file(self._bucket, self._prefix + key, str(file))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the sizes in bytes of all objects whose keys start with `prefix`."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._translating_errors(f"list {prefix}"):
            listed = [
                entry
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
                for entry in page.get("Contents", ())
            ]
        return {entry["Key"].removeprefix(self._prefix): entry["Size"] for entry in listed}

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects in the given order; missing objects are not an error."""
        named = [{"Key": self._prefix + key} for key in keys]
        for start in range(0, len(named), _KEYS_PER_CALL):
            with self._translating_errors("delete objects"):
                batch = {"Objects": named[start : start + _KEYS_PER_CALL], "Quiet": True}
                response = self._client.delete_objects(Bucket=self._bucket, Delete=batch)
            if response.get("Errors"):
                raise self._unavailable("delete objects", response["Errors"][0]["Message"])

    @contextmanager
    def _translating_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise self._unavailable(what, error) from error

    def _unavailable(self, what: str, reason: object) -> PlatformError:
        return PlatformError(
            "store_unavailable",
            f"Cannot {what} in {self.url}: {reason}.",
            hint="Check DIRL_OBJECT_STORE_URL, the bucket, and the AWS_ variables of this process.",
        )
