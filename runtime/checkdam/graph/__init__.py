"""The graph of a job as data, and how it is cut into what workers run.

`model` has operators and edges, which every process of a job builds for itself by calling the user's entrypoint; `plan`
makes stages of them, which run as one subtask per worker, and the fingerprint by which processes and checkpoints agree; `modes` says
in which mode a graph can run.
"""
