"""The traffic interface on this host: its link, addresses, multicast MACs and announcements."""
