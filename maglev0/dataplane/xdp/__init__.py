"""The XDP filter: refuses foreign packets before the kernel makes a buffer for them.

`early.bpf.c` judges; `filter.XdpFilter` keeps it in step with the nftables rules, which judge after
it. It only saves work: the rules would drop what it drops, and where it cannot run they do all of
it.

In: an interface, a service and its admitted buckets. Out: an attached program, its maps and
counters. It must not know leases or rules.
"""
