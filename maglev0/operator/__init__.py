"""What an operator asks and orders: one module for each subcommand, each with its own help text and `main(arguments)`."""

from __future__ import annotations
