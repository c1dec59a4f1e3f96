"""Connections that this host holds, by connection tracking and by its sockets.

In: a VIP and how its packets are hashed. Out: buckets with connections, and entries made for
sockets. It must not know rules.
"""
