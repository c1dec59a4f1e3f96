"""The interface, addresses and routes of this machine: reader and judge."""
