"""What goes over a job's connections: `auth` proves who is there, `frames` cuts messages out of bytes, `messages` says what they mean.

There is no socket here: the coordinator's event loop and the workers' threads bring their own.
"""
