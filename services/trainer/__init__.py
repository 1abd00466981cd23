"""The trainer service: a supervisor and the learner it starts. The only writer of weights and
checkpoints.
"""
