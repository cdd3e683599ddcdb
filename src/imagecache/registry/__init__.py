"""A reference to verified bytes: an asynchronous client of the OCI distribution API.

Authentication, credentials, mirrors, retries, ranges, bounds. It must not know stores, layers or Kubernetes, and no
credential may leave the host it is for, or reach a log or an error.
"""
