"""What ends a command: one message for the user, exit status 1."""


class CommandError(Exception):
    """A command that cannot be carried out; the message says what was tried, what is wrong and the way out."""

    def __init__(self, message: str, *, code: str = "command_failed") -> None:
        super().__init__(message)
        self.code = code
        """Code of the API's error envelope when it came from there."""
