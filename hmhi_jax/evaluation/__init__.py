"""Metrics, protocols and the report."""
