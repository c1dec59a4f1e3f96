"""Packet filters of other programs: reader and judge."""
