"""What the lab cannot do."""

from __future__ import annotations

from maglev0.errors import MaglevError


class LabError(MaglevError):
    """The lab cannot be built or controlled, or one of its parts failed.

    No real cluster is affected.
    """
