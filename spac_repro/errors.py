"""Errors whose message is for the user: one line that says what is wrong, where, and what to do."""


class UserError(Exception):
    """Wrong usage or bad input. The message is one line: what is wrong, where (file, line, key), and the remedy."""

    exit_code = 2


class UnfitEnvironmentError(UserError):
    """The command is right, but this machine or environment cannot carry it out."""

    exit_code = 3
