"""The ZooKeeper adapter: session, kazoo's connection, ACLs, credentials, session file, diagnosis.

In: calls of `protocol.ports.zookeeper`. Out: kazoo's requests, and its events as wake-ups. This
package must not know any dataplane.
"""
