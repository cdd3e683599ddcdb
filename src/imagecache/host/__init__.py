"""This machine: mounts, page-cache trim, the node process, the host service, containerd's drop-in, doctor."""
