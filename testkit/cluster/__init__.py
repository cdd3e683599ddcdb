"""A real Kubernetes on this machine: etcd, the control plane, nodes with kubelet, kube-proxy and containerd.

For tests and benches (``with Cluster(directory) as cluster``) and for people (``./dev cluster``, docs/cluster.md). A
node is a network and a mount namespace held open by one process, so a node that ends takes its mounts and interfaces
with it. It must not know the product: what runs on the nodes beside Kubernetes is the caller's.
"""
