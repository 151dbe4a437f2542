"""The way to the API server: what its kinds are called, six verbs, what its answers mean, the Lease and Events.

All objects are plain dictionaries, as they travel: typed models of the Kubernetes client cost three times the CPU time and memory and add nothing that
the pure readers in `checkdam_operator.observed` do not check. `protocol.Cluster` is what everything above uses; `client.KubeClient` is the real one.
"""
