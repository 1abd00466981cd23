"""Write the rows of a data set: `python -m services.common.environments NAME OUT`.

Exit status 2, with a sentence on standard error, for a name that cannot be used. Its own process,
with limits, because parameters of users decide how much it computes.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from services.common.environments.interface import open_data_set
from services.common.environments.names import EnvironmentName, parse_environment_name

_MEMORY_BYTES: Final = 8 << 30
_CPU_S: Final = 300


def make_rows(name: EnvironmentName) -> Iterator[dict[str, Any]]:
    """Yield the rows: prompt, reference answer and completion where there are, and what the grader
    `environment` needs; raises ValueError.
    """
    data_set = open_data_set(name)
    for index in range(len(data_set)):
        task = data_set[index]
        answer = {} if task.answer is None else {"answer": task.answer, "completion": task.answer}
        yield {
            "id": f"{name.data_set}-{name.seed}-{index}",
            "prompt": task.prompt,
            **answer,
            "environment": str(name),
            "index": index,
            "metadata": task.metadata,
        }


def main() -> int:
    """Entry point; the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    _, name, out = sys.argv
    partial = Path(f"{out}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in make_rows(parse_environment_name(name)):
                file.write(json.dumps(row) + "\n")
        partial.rename(out)  # complete or absent
    except (
        ValueError,
        ArithmeticError,
        LookupError,
        AssertionError,
        TypeError,
        MemoryError,
    ) as error:
        sys.stderr.write(f"{error or repr(error)}\n")
        return 2
    finally:
        partial.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
