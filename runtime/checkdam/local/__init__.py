"""A job on one machine: the coordinator and the workers of a cluster, as processes.

`runner` does what Kubernetes and the operator do there: it starts the processes, starts them again when they die, puts
another one beside one that no longer answers, and shows what the coordinator's API says. It holds no state of the job.
`registry` lets commands in other terminals find it.
"""
