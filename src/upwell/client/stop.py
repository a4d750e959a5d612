"""A request to stop that reaches whatever was begun on its behalf."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Stop(threading.Event):
    """An event that, when it is set, does something: it sets its children, it ends reading."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @contextmanager
    def child(self) -> Iterator[Stop]:
        """An event that is set when this one is, and can be set alone."""
        child = Stop()
        with self.doing(child.set):
            yield child

    @contextmanager
    def doing(self, action: Callable[[], None]) -> Iterator[None]:
        """While this lasts, have ``action`` done when the event is set, by whoever sets it."""
        with self._lock:
            self._actions.append(action)
        try:
            if self.is_set():
                action()
            yield
        finally:
            with self._lock:
                self._actions.remove(action)

    def set(self) -> None:
        super().set()
        with self._lock:
            actions = list(self._actions)
        for action in actions:
            action()
