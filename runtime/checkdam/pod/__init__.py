"""What runs in a pod: the coordinator and the workers of a job, told what to do by mounts and environment.

`python -m checkdam.pod coordinator` and `python -m checkdam.pod worker` are process 1 of their containers. `mounts` reads what the operator
has put there and makes a configuration of it; `keeper` is process 1 of a coordinator's pod, which starts a coordinator again when it crashes. In
a worker's pod the worker's own supervisor is process 1.

Neither ends by itself as long as there is anything to say or to wait for: the kubelet would start it again, and after a few times wait for
minutes before it does. How a job has ended is read from the coordinator's API.
"""
