"""Faults on a lab under clients, and the verdict."""
