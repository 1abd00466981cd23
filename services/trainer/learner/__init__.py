"""The learner: the process that trains one attempt of one job. It owns weights, optimizer, prompt
ledger and journal.

`python -m services.trainer.learner REQUEST.json` reads its request, runs the stages of the job spec
from the newest valid checkpoint on, and leaves a result file next to the request.
"""
