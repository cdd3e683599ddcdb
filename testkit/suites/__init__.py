"""One suite per port: what every implementation must do. Subclassed in ``tests/suites``."""
