"""Text as people write it: what is around a name, and characters in it that nobody sees.

A name that is copied out of a page or a chat brings blanks, no-break spaces and marks of no width with it. They are not
part of it: what is read is trimmed once, where it is read, so that nothing later compares two spellings. Inside of a
name they are an error, and ``strange`` says what it is. And text that anybody may have written goes through
``printable`` where it leaves us. It must not know what the text is for.
"""

from __future__ import annotations

import unicodedata

_SHOWN = 40
"""Characters before a strange one that a message repeats."""
LONGEST = 2048
"""Characters of a message in a status, a log or on a terminal."""
_CUT = "…"


def trimmed(text: str) -> str:
    """Without white space of any kind, control characters that are white space, and marks of no width, at both ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while start < end and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas, trimmed, without empty ones."""
    return tuple(filter(None, map(trimmed, text.split(","))))


def strange(text: str, *, blanks: bool = False) -> str:
    """What is wrong with the first character that is not printable ASCII; empty when all are.

    ``it contains U+00A0 (NO-BREAK SPACE) after 'nginx:'``. With ``blanks`` the blank of ASCII is not strange.
    """
    for position, character in enumerate(text):
        if not "!" <= character <= "~" and not (blanks and character == " "):
            name = unicodedata.name(character, "a character without a name")
            before = text[max(0, position - _SHOWN) : position]
            return f"it contains U+{ord(character):04X} ({name})" + (f" after {before!r}" if before else "")
    return ""


def refusal(message: str, text: str, *, blanks: bool = False) -> str:
    """The message that refuses ``text``, with its strange character if it has one."""
    found = strange(text, blanks=blanks)
    return f"{message}: {found}" if found else message


def printable(text: str, longest: int = LONGEST) -> str:
    """One line that shows as what it is, of at most ``longest`` characters.

    Terminals obey control characters, line breaks make lines that nobody has written, and marks of direction change
    the order of what is read: each is replaced by its escape, as is a character that no font has. What is too long
    ends in an ellipsis. The result of a result is the same text.
    """
    if len(text) <= longest and text.isprintable():
        return text
    # not all of it: a text may be as large as the document that it was in
    escaped = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: longest + 1])
    return escaped if len(escaped) <= longest else escaped[: longest - len(_CUT)] + _CUT


def explained(message: str, hint: str) -> str:
    """An error and what to do next, printable; the message is cut before the hint is."""
    end = f"; {printable(hint, LONGEST // 2)}" if hint else ""
    return printable(message, LONGEST - len(end)) + end


def _is_blank(character: str) -> bool:
    # Cf: ZERO WIDTH SPACE, the byte order mark, marks of direction, the soft hyphen
    return character.isspace() or unicodedata.category(character) == "Cf"
