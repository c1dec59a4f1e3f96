"""maglev0: N Linux servers share one virtual IP without a load balancer in front."""

from __future__ import annotations

__version__ = "0.5.0"
