"""What a process in a container can notice: containers of ours beside those of containerd's overlayfs.

``inside`` runs there and says what it sees, ``image`` is what it looks at, ``measure`` runs it in each mode and
version, ``table`` explains the differences and has the text of ``docs/same-as-overlayfs.md``. The test and the tool
that writes the document share all of it.
"""
