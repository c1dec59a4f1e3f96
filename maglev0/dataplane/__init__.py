"""The kernel adapter: what carries out ownership, behind the ports in `protocol.ports`.

In: a service, buckets and lease timers. Out: rules, sets, addresses and programs in the kernel. It
must not know ZooKeeper or members.
"""
