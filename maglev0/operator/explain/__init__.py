"""`maglev0 explain`: which member answers a client, and why.

`bucket_owner` finds owner and former owner in what ZooKeeper holds, `command` asks this machine's
kernel, too, and prints the answer.
"""
