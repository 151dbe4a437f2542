"""Kubernetes on this machine for tests: the real programs, built from their published modules, without a container engine.

`programs` builds them into the cache that all real servers of the tests share. There are two ways to use them.

A control plane alone: `control_plane` starts what serves the API, on the loopback, and `stub_kubelet` plays the nodes there: it
moves pods through their phases without running anything, on what `pod_status` writes.

A whole cluster, described by `cluster` and chosen by `choice`: `kind_cluster` where a Docker engine answers, `own_cluster`
elsewhere. The latter is made of `machines`, which are namespaces that `network` connects and whose processes `cgroups` knows; of what
runs on them (`control_machine`, `containerd`, `node`); and of `images`, in layers that `image_layers` builds. `requirements` says what it takes.
"""
