"""The controller: from ImageCache objects to bundles in the store, and back to the status of the objects.

``decide`` is pure: it gets an object and the state around it, and returns what to do. Everything else observes that
state or carries decisions out, in a cluster and on a host without Kubernetes. It must not construct what it uses.
"""
