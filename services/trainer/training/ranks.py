"""Ranks: processes that share one learner's work, each with the whole mini-batch and a share of its
rows.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

from services.common.errors import PlatformError

T = TypeVar("T")
_PATIENCE: Final = timedelta(days=7)
"""Ranks wait as long as rank 0 waits for rollouts; that one of them died is noticed by the
supervisor.
"""
_CPU: Final = torch.device("cpu")
_LOOPBACK: Final = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True)
class Ranks:
    """This process among those of the learner; rank 0 leads and alone talks to the rest of the
    platform.
    """

    rank: int = 0
    size: int = 1

    def share_rows(self, rows: Sequence[T]) -> list[tuple[T, bool]]:
        """This rank's rows, and whether each counts.

        Every rank gets equally many, because each pass over a sharded model is collective: where
        rows do not divide evenly, some ranks repeat one that does not count.
        """
        # Round-robin, not in runs: rows come longest first, so every round has rows of similar length
        # and no rank waits long for another.
        rounds = -(-len(rows) // self.size)
        numbers = range(self.rank, rounds * self.size, self.size)
        return [
            (rows[number], True) if number < len(rows) else (rows[0], False) for number in numbers
        ]

    def all_gather(self, value: T) -> list[T]:
        """The value of every rank, by rank; collective."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value; the others' is ignored. Collective."""
        box: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=_CPU)
        return box[0]

    def dismiss(self) -> None:
        """Rank 0: let the ranks that follow end (PolicyModel.follow_leader)."""
        self.broadcast(None)

    def leave(self) -> None:
        """Close the connections to the other ranks: a process that ends with them open may abort as
        it ends.
        """
        if self.size > 1:
            dist.destroy_process_group()


ALONE: Final = Ranks()
"""One process, without torch.distributed."""


def join(rendezvous: str, rank: int, size: int, here: range) -> Ranks:
    """Meet the other ranks; a single one stays alone. `here` are those of this host, each with a
    GPU if there are any.

    Raises PlatformError("preflight_failed").
    """
    if size == 1:
        return ALONE
    gpus = torch.cuda.device_count()
    if 0 < gpus < len(here):
        raise PlatformError(
            "preflight_failed",
            f"Cannot start {len(here)} ranks: the host has {gpus} GPUs, and each rank needs one.",
            hint="Lower resources.trainer_ranks.",
            param="resources.trainer_ranks",
        )
    # NCCL needs a device per rank before the group forms. Python objects go through gloo on the CPU
    # either way.
    if gpus:
        torch.cuda.set_device(rank - here.start)
    if len(here) == size:
        # torch.distributed unpickles what other ranks send: where all share a machine, only the
        # loopback interface is listened on.
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", _LOOPBACK)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=rendezvous,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    return Ranks(rank, size)
