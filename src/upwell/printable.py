"""Text of others, such as file names and paths, made harmless for terminals and logs."""

from __future__ import annotations

import re

# Control characters (Unicode Cc), line and paragraph separators, bidirectional controls (UAX #9),
# characters that nobody sees, and surrogates, which UTF-8 cannot write. Joiners, variation
# selectors and tags stay: emoji and several scripts are written with them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0001]"
)


def printable(text: object, *, keep: str = "") -> str:
    """Text that cannot act on a terminal, start a line, or change the direction of what follows.

    Unsafe characters become escapes such as ``\\x1b`` and ``\\u202e``; those in ``keep`` stay.
    """

    def escaped(found: re.Match[str]) -> str:
        letter = found[0]
        if letter in keep:
            return letter
        code = ord(letter)
        if code < 0x100:
            return f"\\x{code:02x}"
        return f"\\u{code:04x}" if code < 0x1_0000 else f"\\U{code:08x}"

    return _UNSAFE.sub(escaped, str(text))
