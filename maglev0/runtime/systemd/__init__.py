"""systemd: notifications to it, the unit, and the example configuration that the unit reads."""
