"""Text of others in the server's log: every character of it, in both formats."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata

import pytest

from upwell.printable import printable

# What the tests of every room print: ends of lines, ANSI and OSC sequences in 7 and 8 bits, a
# writing direction turned around, a surrogate, a forged line.
HOSTILE = (
    "a\r\n2026-01-01 [info] forged\x1b[31m\x1b]0;t\x07\x9b1m\x7f\0\u202egnp.exe\u2066\u2028b\udcffc"
)
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

SCRIPT = """
import logging, sys, warnings
from upwell.log import set_up_log
import structlog
hostile = %a
set_up_log(sys.argv[1])
log = structlog.get_logger("upwell.http")
log.info("request", path=hostile, names=[hostile, {hostile: hostile}], what=OSError(hostile))
log.info(hostile)
try:
    raise ValueError(hostile)
except ValueError:
    log.exception("bug")
    logging.getLogger("uvicorn.error").exception("it failed: %%s", hostile)
logging.getLogger("asyncio").warning(hostile)
warnings.warn(hostile)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_log_line_carries_what_acts_on_a_terminal(log_format: str) -> None:
    script = [sys.executable, "-c", SCRIPT % HOSTILE, log_format]
    log = subprocess.run(script, check=True, capture_output=True).stderr.decode()
    assert not UNSAFE.search(log)
    lines = log.splitlines()
    if log_format == "json":
        assert len([json.loads(line) for line in lines]) == 6
    else:
        # An event begins its line; a line of a traceback is indented.
        began = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d", line)]
        assert len(began) == 6
        assert not [line for line in began if line.startswith("2026-01-01 [info] forged")]
        others = [line for line in lines if line not in began]
        assert all(line.startswith(("    ", "Traceback ")) or not line for line in others)
    assert r"\x1b[31m" in log.replace("\\\\", "\\")


@pytest.mark.parametrize(
    "kept",
    [
        "naïve",
        "日本語",
        "العربية",
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "क\u094d\u200dष",
        "🏴\U000e0067\U000e007f",
    ],
)
def test_scripts_and_emoji_stay_as_they_are(kept: str) -> None:
    assert printable(kept) == kept


def test_no_unsafe_character_remains() -> None:
    every = "".join(map(chr, range(0x11_0000)))
    left = printable(every)
    assert not UNSAFE.search(left)
    assert not {
        letter for letter in left if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
    }
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {letter for letter in left if unicodedata.bidirectional(letter) in bidirectional}
    assert printable("\x1b\u202e\U000e0001") == r"\x1b\u202e\U000e0001"
    assert printable("a\tb\n", keep="\t") == "a\tb\\x0a"
