"""Connections that this host holds, by connection tracking and by its sockets."""
