"""maglev0: N Linux servers share one virtual IP without a load balancer in front."""

__version__ = "0.1.0"
