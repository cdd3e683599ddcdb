"""This machine: mounts, system calls, the host service, containerd's drop-in, doctor."""
