"""Kernel, rights, connection tracking and clocks: `read` asks the kernel, `judge` decides."""
