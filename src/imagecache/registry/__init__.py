"""From a reference to verified bytes: an asynchronous client of the OCI distribution API.

Authentication, credentials, mirrors, retries, ranges, bounds. It must not know stores, layers or Kubernetes. A
credential must not be sent to another host than its own, and must not reach a log or an error.
"""
