"""What the lab cannot do."""

from __future__ import annotations

from maglev0.errors import MaglevError


class LabError(MaglevError):
    """The lab could not be built, or one of its parts did not do what it must; nothing is wrong with a real cluster."""
