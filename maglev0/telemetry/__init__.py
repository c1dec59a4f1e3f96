"""What a node reports, and how an observer reads a cluster: reports, audit, metrics, notices.

In: the progress of a node, the kernel read back, check results. Out: report znodes, metrics, calls
of the operator's program. Nothing that decides about ownership may depend on it, and it changes
no kernel.
"""
