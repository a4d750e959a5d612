"""What a transfer tells whoever watches it."""

from __future__ import annotations


class Watcher:
    """Follows one transfer; override what you care for.

    ``advance`` is called from several threads at once.
    """

    def begin(self, total: int, done: int) -> None:
        """The transfer is of ``total`` bytes, of which ``done`` need not be sent again."""

    def advance(self, count: int) -> None:
        """``count`` more bytes went over; negative when they must go again."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""
