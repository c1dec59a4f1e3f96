"""Packet filters of other programs, which may drop the VIP's packets.

`read` lists the rules, `legacy` translates those of iptables-legacy, `walk` follows a packet
through them by the tests of `matching`, and `judge` decides.
"""
