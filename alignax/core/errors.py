"""The one error of the borders: what was expected, what came, what to do."""


class BadInput(ValueError):
    """A file, setting or command that cannot be used, in three parts.

    Args:
        expected: what would have been right.
        got: what came instead, with its value.
        remedy: what to do about it.
        where: `file:line`, a path or a setting's dotted name; the message begins with it.

    Example:
        >>> raise BadInput("the keys prompt, chosen, rejected", "prompt, chosen",
        ...                "For prompt and response alone, use SFT.", where="pairs.jsonl:41")
        Traceback (most recent call last):
        ...
        BadInput: pairs.jsonl:41: expected the keys prompt, chosen, rejected; got prompt, chosen.
            For prompt and response alone, use SFT.
    """

    def __init__(self, expected: str, got: str, remedy: str, *, where: str | None = None):
        self.expected, self.got, self.remedy, self.where = expected, got, remedy, where
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}expected {expected}; got {got}.\n    {remedy}")

    def advise(self, more: str) -> None:
        """Adds to what to do about it, where the error passes by who knows more."""
        self.remedy = f"{self.remedy} {more}"
        self.args = (f"{self.args[0]} {more}",)
