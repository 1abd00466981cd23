"""Identifiers: a prefix for the type and 24 random hex digits; ids of groups and trajectories are
derived.
"""

import secrets
from typing import Final

PREFIXES: Final = frozenset({"job", "file", "ckpt", "model", "att", "evt", "key", "export", "whk"})


def new_id(prefix: str) -> str:
    """Create a new id, e.g. `job_3f…`."""
    if prefix not in PREFIXES:
        raise ValueError(f"{prefix!r} is not an id prefix; the prefixes are {sorted(PREFIXES)}")
    return f"{prefix}_{secrets.token_hex(12)}"


def group_id(job_id: str, attempt: int, purpose: str, round_: int, position: int) -> str:
    """Derive the id of one use of a prompt, which is unique within the job.

    `round_` is the global step (train) or the number of the evaluation (eval); `position` the
    ledger position.
    """
    return f"grp_{job_id.removeprefix('job_')}_{attempt}_{purpose}_{round_}_{position}"


def trajectory_id(group: str, response_index: int) -> str:
    """Derive the id of a response of a group."""
    return f"traj_{group.removeprefix('grp_')}_{response_index}"
