"""The ZooKeeper adapter: the session, kazoo's connection, ACLs, credentials, the session file and the diagnosis.

In: calls of `protocol.ports.zookeeper`. Out: kazoo's requests, and its events as wake-ups. It must not know any dataplane.
"""
