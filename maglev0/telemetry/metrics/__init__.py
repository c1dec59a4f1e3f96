"""Metrics for Prometheus: their names and meanings, the exporter and its HTTP server.

In: a snapshot of each VIP, durations and errors. Out: what a scrape reads. Nothing that
decides who owns what depends on it.
"""
