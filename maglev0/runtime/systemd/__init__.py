"""The service manager: what systemd is told, the unit, and the example configuration that the unit reads."""
