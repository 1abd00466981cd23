"""`python -m services.trainer.learner REQUEST.json`: train one attempt. Exit status 0 when a result
was written.
"""

import sys
from pathlib import Path

from services.trainer.learner.run import run_learner

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.trainer.learner REQUEST.json")
    run_learner(Path(sys.argv[1]))
