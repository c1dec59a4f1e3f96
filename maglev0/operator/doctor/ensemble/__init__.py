"""ZooKeeper's servers: `read` asks each server, `judge` decides."""
