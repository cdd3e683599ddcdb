"""Which image cache serves a pod, and why: a pure function of the pod, the defaults around it, and the caches.

Source: ECI's match policy (eci-api §3, §4); what it leaves open is decided in ``docs/pods.md``. It must not do I/O, and
must not raise for anything that a user can write.
"""
