"""Clients and services of the lab, and the account of every answer."""
