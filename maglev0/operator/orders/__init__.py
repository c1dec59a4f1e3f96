"""`maglev0 drain`, `undrain` and `weight`: orders that lie in ZooKeeper until they are withdrawn."""
