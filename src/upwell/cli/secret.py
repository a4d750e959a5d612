"""Secrets that a person types: never shown, never among a command's arguments."""

from __future__ import annotations

import os
import sys
from getpass import getpass

from upwell.client import SettingsError


def ask_secret(what: str, *, variable: str | None = None, twice: bool = False) -> str:
    """A secret from the environment, from the person (``twice`` when it is new), or where
    there is no terminal, from the first line of standard input. Raises SettingsError."""
    given = os.environ.get(variable) if variable else None
    if given:
        return _checked(given, what)
    if not sys.stdin.isatty():
        return _checked(sys.stdin.readline().rstrip("\r\n"), what)
    secret = _checked(_typed(f"{what}: "), what)
    if twice and _typed(f"{what}, once more: ") != secret:
        raise SettingsError("The two differ.")
    return secret


def _typed(prompt: str) -> str:
    try:
        return getpass(prompt)
    except EOFError:
        return ""


def _checked(secret: str, what: str) -> str:
    if not secret:
        raise SettingsError(f"{what} is empty.")
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{what} is not UTF-8.") from None
    return secret
