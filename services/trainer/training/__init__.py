"""The mathematics of training: rows, masks, objectives, estimators, optimizer and ranks.

Knows the job spec, but no stream, journal, ledger or request; `services.trainer.learner` feeds it.
"""
