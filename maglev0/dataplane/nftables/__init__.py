"""The nftables dataplane: rules, sets and lease timers of one VIP."""
