"""The rollout service: generates and grades groups of responses. It never writes a checkpoint."""
