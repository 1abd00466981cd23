"""What ends a command: one message for the user, exit status 1."""

from services.api.client import ClientError


class CommandError(ClientError):
    """A command that cannot be carried out, whether or not the API was asked."""
