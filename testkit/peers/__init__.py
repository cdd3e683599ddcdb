"""Real parts for tests, demo and bench: docker-registry, containerd 1.6 and 2.4, CRI, images from real content.

Each is a context manager that keeps everything it has in a directory given to it and leaves no process, mount or
namespace behind, also when the run before it was killed. They must not be imported by production code, and a missing
program is an error that says how to get it, never a reason to skip.
"""
