"""`maglev0 status`: the members, their buckets, and whether every bucket has one owner.

`page` judges what was read of a cluster, `wording` makes words and a table of it, `screen` draws it
in a terminal, and `command` reads the command line.
"""
