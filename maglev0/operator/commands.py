"""The commands beside the daemon, and where each one lives."""

from __future__ import annotations

# Where the `main` of each is, which takes the words behind its name. Imported when it is wanted: no daemon needs their libraries.
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
