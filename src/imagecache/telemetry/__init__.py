"""Structured logs, Prometheus metrics and health, each declared once. It must not decide anything."""
