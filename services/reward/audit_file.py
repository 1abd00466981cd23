"""Audit reference answers without a platform: `python -m services.reward.audit_file`, for `dirl data check`.

Reads lines of JSON `[reference answer, type]` from standard input, and writes a line `[status, reason]` for each.
"""

import json
import math
import sys
from typing import Final

from services.common.answers.answer_types import AnswerType
from services.common.errors import PlatformError
from services.common.telemetry.logs import configure_logging
from services.reward.audit import audit_reference_answers
from services.reward.pool import Pool, PoolConfig
from services.reward.settings import RewardSettings

_BATCH: Final = 512


def main() -> int:
    """Return exit status 0, or 1 with the reason on standard error."""
    configure_logging("check", "warning", "console")
    references = [json.loads(line) for line in sys.stdin]
    settings = RewardSettings()
    pool = Pool(PoolConfig(workers=settings.reward_workers))
    pool.start()
    try:
        for start in range(0, len(references), _BATCH):
            batch = [(text, AnswerType(kind)) for text, kind in references[start : start + _BATCH]]
            for audit in audit_reference_answers(pool, batch, settings.reward_timeout_s, math.inf):
                sys.stdout.write(json.dumps([audit.status, audit.reason]) + "\n")
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        pool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
