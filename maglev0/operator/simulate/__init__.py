"""`maglev0 simulate`: the table for chosen members, and what a change of them moves.

`scenario` computes, `plot` and `drawing` make a picture, `command` reads the command line and
prints.
"""
