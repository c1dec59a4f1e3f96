"""Text written by others, fitted into one line of a message.

Pure: imports no I/O.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` as a message of one line may contain it."""
    return text if text.isprintable() else ascii(text)


def blanked(text: str) -> str:
    """The text with a space in place of each character that is not printable."""
    return "".join(character if character.isprintable() else " " for character in text)


def shortened(text: str, most: int) -> str:
    """The text, cut to `most` characters with a mark that it was."""
    return text if len(text) <= most else text[: most - 1] + "…"


def duration(seconds: float) -> str:
    """A duration for people: whole seconds, minutes, hours or days."""
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
