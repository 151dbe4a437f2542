"""The Kubernetes objects of a job, as dictionaries.

Pure functions from what a decision knows to the body of one request: `names` says how objects are called and labelled, `hashes` when pods
must be made anew, `config` makes all objects but pods, `pods` makes pods, into which `templates` merges what the user's podTemplate asks
for. Nothing here talks to anybody, and the same arguments always give the same bodies, so that two operators that decide the same collide at
the API server instead of doing it twice.
"""
