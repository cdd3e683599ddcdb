"""The probe: what a process in a container sees. ``python3 -m inside PHASE`` prints JSON, question to answer.

In the image it is a package of its own, so it imports nothing but the standard library. Importing it gathers the
questions, in the order of the table. It must not know which snapshotter it runs on.
"""

from . import looking, using, walking

__all__ = ["looking", "using", "walking"]
