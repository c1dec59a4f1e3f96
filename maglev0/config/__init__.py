"""From flags and a configuration file to one frozen `Config`.

In: the command line and the text of a file. Out: a checked value, or errors that name the flag, the
value and what is allowed. This package must not know who uses the values.
"""
