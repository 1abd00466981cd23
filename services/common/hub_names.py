"""Names of data sets on the Hugging Face hub in job specs: `openai/gsm8k@e53f048:main/train`."""

import re
from dataclasses import dataclass
from typing import Final

DEFAULT_CONFIG: Final = "default"
_PART: Final = r"[A-Za-z0-9][\w.-]*"
_REVISION: Final = r"@(?P<{}>[\w.][\w./-]*)"
_NAME: Final = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:{_REVISION.format('before')})?:(?:(?P<config>{_PART})/)?(?P<split>{_PART})"
    rf"(?:{_REVISION.format('after')})?"
)


@dataclass(frozen=True)
class HubName:
    """One split of a data set."""

    repository: str
    revision: str | None
    """Commit, tag or branch; None for the default branch."""
    config: str | None
    """Configuration; None for the only one, or the one called `default`."""
    split: str

    def __str__(self) -> str:
        """The name that is parsed to this one."""
        revision = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f"{self.config}/"
        return f"{self.repository}{revision}:{config}{self.split}"


def is_hub_name(name: str) -> bool:
    """Whether a file of a job spec is a data set on the hub: OWNER/NAME:CONFIG/SPLIT or OWNER/NAME:SPLIT."""
    return _NAME.fullmatch(name) is not None


def parse_hub_name(name: str) -> HubName:
    """Parse a name, in which the revision may also be at the end; raises ValueError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not OWNER/NAME:CONFIG/SPLIT")
    if match["before"] and match["after"]:
        raise ValueError(f"{name!r} has two revisions; keep one of them")
    revision = match["before"] or match["after"]
    return HubName(match["repository"], revision, match["config"], match["split"])
