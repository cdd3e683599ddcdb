"""The ImageCache resource as data: document, spec, status, annotations, phases, events, columns.

One truth for the command line and the cluster: both show the same document and the same columns. Pure: it must not do
I/O, must not know where objects are kept, and must not know Kubernetes clients.
"""
