"""Clients and responders of the lab, and the records of every answer."""
