"""The ports through which the protocol reaches the kernel and ZooKeeper.

Adapters implement them: `dataplane` the kernel's, `coordination` ZooKeeper's, and the simulation
both. The kernel has small ports: the gate of the buckets, the lease timer, readings, statistics and
upkeep; a `Dataplane` is all of them together.

The kernel accepts a new flow (TCP's pure SYNs, and every packet of other protocols) where two
things hold at once: its bucket is *in force*, and the *lease* runs. Both are the kernel's own
state, so they do not depend on what becomes of this process.
"""
