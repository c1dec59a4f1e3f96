"""`maglev0 explain`: which member answers a client, and why."""
