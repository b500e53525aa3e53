"""The two kinds of failure a command can end with."""


class StlmError(Exception):
    """A failure that is ours: one clear sentence, exit code 1."""

    exit_code = 1


class UserError(StlmError):
    """A failure the user can repair (bad file, setting or argument): one clear sentence, exit code 2.

    The message names the file or the setting, says what is wrong with it and, where it is not obvious,
    what to do.
    """

    exit_code = 2


def first_line(error: Exception) -> str:
    """The first line of what a library's error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
