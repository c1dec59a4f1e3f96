"""The subcommands of `maglev0`, and the module of each."""

from __future__ import annotations

# The module with the `main` of each, which takes the words after the command's name. A module is
# imported only when its command runs: the daemon does not need their libraries.
COMMANDS = {
    "status": "maglev0.operator.status.command",
    "explain": "maglev0.operator.explain.command",
    "simulate": "maglev0.operator.simulate.command",
    "doctor": "maglev0.operator.doctor",
    "drain": "maglev0.operator.orders.drain",
    "undrain": "maglev0.operator.orders.undrain",
    "weight": "maglev0.operator.orders.weight",
    "completion": "maglev0.operator.shell.completion",
    "man": "maglev0.operator.shell.man",
    "lab": "maglev0.lab.command",
}
