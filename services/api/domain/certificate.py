"""Which of a job's certificates is shown: a later one that holds must not hide one that does not."""

from collections.abc import Mapping
from typing import Any


def is_verified(certificate: Mapping[str, Any]) -> bool:
    """Whether no prompt was lost or trained twice, every one is accounted for, and the weights in
    memory were those of the checkpoint.
    """
    accounted = certificate["trained"] + sum(certificate["dropped"].values()) + certificate["open"]
    return bool(
        certificate["lost"] == certificate["trained_twice"] == 0
        and certificate.get("miscounted", 0) == 0
        and certificate["issued"] == accounted
        # A restart from zero has no checkpoint to compare with.
        and certificate["digest_before"] in (None, certificate["digest_after"])
    )


def worst(known: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return the graver one, the newer of equals: one that does not hold, then a restart from
    zero, then the rest.
    """
    return known if known is not None and _gravity(known) > _gravity(new) else new


def _gravity(certificate: Mapping[str, Any]) -> int:
    if not is_verified(certificate):
        return 2
    return int(certificate["moment"] == "restart")
