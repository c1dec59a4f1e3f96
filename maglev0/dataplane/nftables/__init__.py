"""The nftables dataplane, for today's kernels.

In: one service, its buckets and leases. Out: two nftables tables, the VIP's address and the cluster
MAC. It must not know ZooKeeper or members.
"""
