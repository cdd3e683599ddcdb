"""The ImageCache resource as data: document, spec, status, annotations, phases, events, columns.

The command line and the cluster share it, so both show the same document and the same columns. Pure: it must not do
I/O, and must not know where objects are kept or how they are read.
"""
