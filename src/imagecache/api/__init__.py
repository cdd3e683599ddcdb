"""The ImageCache resource as data: spec, status, annotations, phases, events.

Alibaba ECI's own document (``eci.alibabacloud.com/v1``), both published generations. Pure: it must not do I/O, and
knows neither stores nor Kubernetes clients.
"""
