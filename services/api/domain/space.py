"""Storage space that a project and the disk have left, and when to warn."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from services.common.errors import PlatformError

_WARN_SHARE: Final = 0.8
"""Of a quota."""
_DISK_WARN_SHARE: Final = 0.9
_CHECKPOINTS_AHEAD: Final = 2
"""A disk that holds fewer more of a job's checkpoints is worth a warning, however large it is."""


@dataclass(frozen=True)
class StorageUsage:
    """Bytes that a project keeps."""

    files: int
    checkpoints: int
    """Those that still exist; what a fork shares with its parent counts for both."""
    models: int
    """Exported ones."""
    quota: int | None
    """None sets no bound."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.files + self.checkpoints + self.models

    @property
    def is_full(self) -> bool:
        """Whether the quota is used up."""
        return self.quota is not None and self.total >= self.quota


@dataclass(frozen=True)
class Disk:
    """The disk of the data directory, bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Shortage:
    """Storage space that is running out."""

    of: Literal["quota", "disk"]
    used_bytes: int
    limit_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, for storage."""
        return {"of": self.of, "used_bytes": self.used_bytes, "limit_bytes": self.limit_bytes}


def find_shortage(usage: StorageUsage, disk: Disk, checkpoint_bytes: int) -> Shortage | None:
    """What a running job with checkpoints of that size should be warned of; the project's quota
    first.
    """
    if usage.quota is not None and usage.total >= _WARN_SHARE * usage.quota:
        return Shortage("quota", usage.total, usage.quota)
    used = disk.total - disk.free
    if used >= _DISK_WARN_SHARE * disk.total or disk.free < _CHECKPOINTS_AHEAD * checkpoint_bytes:
        return Shortage("disk", used, disk.total)
    return None


def require_quota(project: str, usage: StorageUsage, more: int = 0) -> None:
    """Raise PlatformError("quota_exceeded") when the project is full, or would be with so many
    bytes more.
    """
    if usage.quota is None or (not usage.is_full and usage.total + more <= usage.quota):
        return
    raise PlatformError(
        "quota_exceeded",
        quota_message(project, usage, more),
        hint="Delete jobs, files or models, or raise the quota.",
    )


def quota_message(project: str, usage: StorageUsage, more: int = 0) -> str:
    """Used bytes and the quota, as a sentence."""
    wanted = f", {more} more were to be stored" if more else ""
    return (
        f"Project {project} stores {usage.total} bytes (files {usage.files}, checkpoints {usage.checkpoints}, models "
        f"{usage.models}){wanted}; its quota is {usage.quota} (DIRL_PROJECT_QUOTA_BYTES)."
    )
