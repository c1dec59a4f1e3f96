"""Pure values and algorithms: Maglev table, packet hash, settings, members, views, assignments.

In: plain values. Out: plain values. It must not know any kernel, ZooKeeper, clock, file or process.
"""
