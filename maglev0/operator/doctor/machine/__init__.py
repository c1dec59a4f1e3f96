"""Kernel, rights, connection tracking and clocks of this machine: reader and judge."""
