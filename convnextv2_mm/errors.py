"""The error of data that cannot be used."""


class BadData(ValueError):
    """Says in one sentence which file or annotation cannot be used, and why."""
