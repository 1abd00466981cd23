"""Errors of commands, which are printed as one message with exit status 1."""

from services.api.client import ClientError


class CommandError(ClientError):
    """A command failed, with or without a request to the API."""
