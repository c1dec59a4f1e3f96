"""The traffic interface on this host: its link, the VIP's address, the cluster MAC, announcements.

In: an interface, a VIP and its cluster MAC. Out: what netlink and ioctl change on the host, and
notes of it for the next daemon. It must not know rules or buckets.
"""
