"""Kubernetes on this machine for tests, without a container engine: the real programs, built from their published modules.

`programs` builds them into the cache that all real servers of the tests share. `control_plane` starts what serves the API,
without nodes: etcd, an API server and a controller manager on the loopback. `stub_kubelet` plays the nodes there: it moves
pods through their phases without running anything, on what `pod_status` writes.
"""
