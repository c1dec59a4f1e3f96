"""Pure values and algorithms: the Maglev table, the packet hash, settings, members, views and assignments.

In: plain values. Out: plain values. It must not know any kernel, ZooKeeper, clock, file or process.
"""
