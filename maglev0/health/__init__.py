"""Health checks at run time: probes of services, and the state that results in a row give.

In: the health checks of a configuration. Out: whether this node may answer, and why not. This
package must not know members or buckets.
"""
