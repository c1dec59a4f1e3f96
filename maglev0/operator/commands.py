"""The commands beside the daemon, and where each one lives."""

from __future__ import annotations

# Where the `main` of each is, which takes the words behind its name. Imported when it is wanted: no daemon needs their libraries.
COMMANDS = {
    "status": "maglev0.operator.status",
    "explain": "maglev0.operator.explain",
    "simulate": "maglev0.operator.simulate",
    "doctor": "maglev0.operator.doctor",
    "drain": "maglev0.operator.drain",
    "undrain": "maglev0.operator.undrain",
    "weight": "maglev0.operator.weight",
    "completion": "maglev0.operator.completion",
    "man": "maglev0.operator.man",
    "lab": "maglev0.lab.cli",
}
