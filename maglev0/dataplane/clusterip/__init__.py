"""The CLUSTERIP dataplane, for kernels before 6.3.

In: one service and its buckets. Out: an iptables rule, a guard rule that holds the lease, and the
VIP's address. It must not know nftables.
"""
