"""ZooKeeper's servers: reader and judge."""
