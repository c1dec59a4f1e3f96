"""The ports through which the protocol reaches the kernel and ZooKeeper.

Adapters implement them: `dataplane` the kernel's, `coordination` ZooKeeper's, and the simulation both.
"""
