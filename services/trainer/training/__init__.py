"""The mathematics of training: rows, masks, objectives, estimators, optimizer and ranks.

Knows no stream, journal, ledger or job; `services.trainer.learner` feeds it.
"""
