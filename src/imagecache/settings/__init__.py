"""The settings of the program: declared once, read from flags, environment and file."""
