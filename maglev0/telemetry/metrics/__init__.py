"""Metrics for Prometheus: their names and meanings, the exporter and its HTTP server."""
