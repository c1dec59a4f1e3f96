"""Health checks at run time: probes of services, and what their results in a row say.

In: the checks of a configuration. Out: whether this node may answer, and why not. It must not know members or buckets.
"""
