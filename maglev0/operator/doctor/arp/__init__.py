"""The traffic network, by ARP: `read` sends and receives frames, `judge` decides."""
