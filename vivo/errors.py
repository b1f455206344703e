"""The one exception that users are meant to read. Programs show it as one line (vivo/program.py); anything else
is a bug of ours and keeps its traceback."""


class UserError(ValueError):
    """Bad input, configuration or environment: what, where, the fix; one line."""
