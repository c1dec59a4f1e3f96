"""The machines of the lab: namespaces, networks, ZooKeeper servers and daemons."""
