"""The ``imagecache`` command: one file per verb. It reads flags and prints; ``apps`` constructs what a command uses."""
