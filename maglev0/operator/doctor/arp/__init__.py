"""ARP on the traffic network: reader and judge."""
