"""Wiring: the one place that reads the environment and constructs concrete things. It must not decide anything."""
