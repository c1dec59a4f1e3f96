"""The protocol between members: membership, settings, lease and hand-over, as pure state machines.

In: what ZooKeeper and the kernel answered, and the time. Out: calls of the ports in
`protocol.ports`. It must not know kazoo, netlink or asyncio's loop: the simulation runs the same
code.
"""
