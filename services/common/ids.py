"""Identifiers: a prefix that names the kind, then 24 random hex digits; group and trajectory ids
are derived.
"""

import secrets
from typing import Final

PREFIXES: Final = frozenset({"job", "file", "ckpt", "model", "att", "evt", "key", "export", "whk"})


def new_id(prefix: str) -> str:
    """A fresh id, e.g. `job_3f…`."""
    if prefix not in PREFIXES:
        raise ValueError(f"{prefix!r} is no id prefix; the prefixes are {sorted(PREFIXES)}")
    return f"{prefix}_{secrets.token_hex(12)}"


def group_id(job_id: str, attempt: int, purpose: str, round_: int, position: int) -> str:
    """Id of one issue of one prompt: unique within the job, equal when derived again.

    `round_` is the global step (train) or the number of the evaluation (eval); `position` the
    ledger position.
    """
    return f"grp_{job_id.removeprefix('job_')}_{attempt}_{purpose}_{round_}_{position}"


def trajectory_id(group: str, response_index: int) -> str:
    """Id of one response of a group."""
    return f"traj_{group.removeprefix('grp_')}_{response_index}"
