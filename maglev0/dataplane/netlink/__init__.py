"""Netlink as all dataplanes use it: events and dumps that do not hold the loop up."""
