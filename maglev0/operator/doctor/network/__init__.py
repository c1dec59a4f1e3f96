"""Interface, addresses and routes of this machine: `read` asks the kernel, `judge` decides."""
