"""The rollout service: answers prompts with graded groups. It never trains and never writes a
checkpoint.
"""
