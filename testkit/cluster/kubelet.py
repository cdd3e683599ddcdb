"""The settings of kubelet and kube-proxy for a node that shares its kernel and cgroups with others.

Where a default is not used, the reason stands beside it; what was measured is in the design's page on the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

PORT = 10250
PROXY_HEALTH_PORT = 10256
_PLENTY = {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"}
_KUBELET: Mapping[str, object] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "cgroupDriver": "cgroupfs",  # systemd's own driver needs D-Bus
    "failCgroupV1": False,
    "failSwapOn": False,
    "enforceNodeAllocatable": [],  # the node's cgroup root has the machine's limits
    "localStorageCapacityIsolation": False,  # cAdvisor may not know the machine's root device
    "evictionHard": _PLENTY,
    "imageGCHighThresholdPercent": 100,  # of the machine's disk, which other things fill
    "imageGCLowThresholdPercent": 99,
    "makeIPTablesUtilChains": False,  # kube-proxy has its own
    "readOnlyPort": 0,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},  # our own bridge only
    "authorization": {"mode": "AlwaysAllow"},
    "nodeLeaseDurationSeconds": 12,  # renewed every 3 s; the controller manager waits for 20 s
}
_PROXY: Mapping[str, object] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "healthzBindAddress": f"0.0.0.0:{PROXY_HEALTH_PORT}",
    # the machine's conntrack table is not this node's to size
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}


def kubelet_config(cgroup: str, dns: str, taints: Sequence[Mapping[str, str]], changes: Mapping[str, object]) -> str:
    """KubeletConfiguration as JSON. ``cgroup`` is the node's root; ``changes`` win over everything."""
    own = {
        "cgroupRoot": f"/{cgroup}",
        "clusterDNS": [dns],  # answers while a test runs ``dns.Names``
        "clusterDomain": "cluster.local",
        "registerWithTaints": [dict(taint) for taint in taints],
    }
    return json.dumps({**_KUBELET, **own, **changes}, indent=2)


def proxy_config(kubeconfig: str, name: str) -> str:
    """KubeProxyConfiguration as JSON."""
    own = {"clientConnection": {"kubeconfig": kubeconfig}, "hostnameOverride": name}
    return json.dumps({**_PROXY, **own}, indent=2)
