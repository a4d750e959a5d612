"""``upwell``, with a death sentence: run as ``python crashing.py serve …`` by the harness.

``SURVIVAL_POINT`` is ``NAME:before`` or ``NAME:after``, with ``:N`` for the Nth call: there the
process sends itself SIGKILL; or ``NAME:hang``: there the thread waits forever inside C.
``SURVIVAL_CONSTANTS`` puts ``module.NAME=value`` pairs into the product. Worker processes import
this file again (multiprocessing, spawn), so that they have it too. The product has no hooks for
this, and must not have any.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import signal
from typing import Any

from upwell.catalog import SqlCatalog
from upwell.core.uploads import Uploads
from upwell.stores import local
from upwell.stores.local import LocalIntake, LocalSlot, LocalStore

_POINTS: dict[str, tuple[object, str]] = {
    "write": (LocalSlot, "write"),
    "commit": (LocalSlot, "commit"),
    "record": (SqlCatalog, "record_chunk"),
    "reserve": (LocalIntake, "reserve"),
    "add_task": (SqlCatalog, "add_task"),
    "publish": (LocalStore, "publish"),
    "settle": (local, "_settle"),
    "complete": (SqlCatalog, "complete"),
    "cancel": (SqlCatalog, "cancel"),
    "delete": (LocalStore, "delete"),
    "put_many": (LocalIntake, "put_many"),
    "add_files": (SqlCatalog, "add_files"),
    "close": (Uploads, "close"),
}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    """A mutex that is locked twice: no signal and no exception ends the wait."""
    mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def _arm(name: str, when: str, number: int) -> None:
    owner, method = _POINTS[name]
    original = getattr(owner, method)
    calls = itertools.count(1)

    def mortal(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == number
        if last and when == "before":
            _die()
        if last and when == "hang":
            _hang()
        result = original(*args, **kwargs)
        if last:
            _die()
        return result

    setattr(owner, method, mortal)


def _install() -> None:
    if point := os.environ.get("SURVIVAL_POINT"):
        name, when, *number = point.split(":")
        _arm(name, when, int(number[0]) if number else 1)
    for pair in os.environ.get("SURVIVAL_CONSTANTS", "").split():
        path, _, value = pair.partition("=")
        module, _, constant = path.rpartition(".")
        owner = importlib.import_module(module)
        before = getattr(owner, constant)
        setattr(owner, constant, type(before)(float(value)))


_install()

if __name__ == "__main__":
    from upwell.cli import main

    main()
