"""The early stage before the kernel's stack: an XDP program refuses foreign packets before a buffer is made for them.

`early.bpf.c` judges, `front.Front` keeps it in step with the nftables rules that judge behind it. It can only save work: what it drops those rules
would drop too, and where it cannot run they do all of it.
"""
