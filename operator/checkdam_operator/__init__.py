"""The operator: turns StreamJobs of a Kubernetes cluster into running pods and keeps them running.

It imports no user code and nothing of the runtime but the models of the resources (`checkdam.spec`) and a few basic words (`checkdam.core`), so an
upgrade of the operator and the versions of the runtime in the images of jobs are independent of each other.
"""
