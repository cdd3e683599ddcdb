"""The cluster's controller: from ImageCache objects to bundles in the store, and back to their status.

``decide`` is pure and says what follows from what is known; everything around it finds out and carries out. It must not
construct what it uses.
"""
