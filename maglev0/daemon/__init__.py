"""The composition root: it puts together everything below, and nothing else does.

In: a `Config`. Out: an exit status. The supervisor has the process and a slot for each VIP, a slot
makes a VIP controller for each attempt, and that has a node driver and a reconciler. Commands for
operators and the lab are unknown here.
"""
