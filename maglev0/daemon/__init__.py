"""The composition root: the supervisor of the process, one controller for each VIP, the node driver and the reconciler.

In: a `Config`. Out: an exit status. Everything below is put together here and nowhere else.
"""
