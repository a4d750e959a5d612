"""Reads one stranger's file in a process of its own: ``python -I -m upwell.media.worker KIND``.

The file is descriptor 0, the answer goes to descriptor 1, nothing is logged. ``KIND`` is
``image`` or ``recording``; an optional second argument is the time to live in seconds, for
when nobody is left to end this process.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from importlib import import_module

from upwell.media import sandbox
from upwell.media.answer import Answer
from upwell.media.source import Source


def main(kind: str, seconds: int = 60) -> None:
    signal.alarm(seconds)
    sandbox.limit()
    output = _output_of_our_own()
    warnings.simplefilter("ignore")
    images = import_module("upwell.media.images")
    recordings = import_module("upwell.media.recordings") if kind == "recording" else None
    images.prepare()
    source, answer = Source(0), Answer(output)
    sandbox.confine(output)
    if recordings:
        recordings.examine(source, answer)
    else:
        images.examine(io.BufferedReader(source, 64 * 1024), source.size, answer)


def _output_of_our_own() -> int:
    """What a library prints must not end up in the answer."""
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return output


if __name__ == "__main__":
    try:
        main(sys.argv[1], *(int(each) for each in sys.argv[2:3]))
    except BaseException:  # noqa: BLE001 whatever it was, its text may be the file's
        os._exit(1)
    os._exit(0)  # without clean-up, that a damaged heap could still disturb
