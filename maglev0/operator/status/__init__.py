"""`maglev0 status`: the members, who owns what, and whether every bucket has exactly one owner."""
