"""`maglev0 drain`, `undrain` and `weight`: orders in ZooKeeper, in force until withdrawn.

Each command has a module of its own, because each has a help text of its own, and the help is the
module's docstring. `ordering` is what they share: it writes the order and follows its progress.
"""
