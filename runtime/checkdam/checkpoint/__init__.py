"""What a job remembers: its journal, its checkpoints, and the storage that both lie in.

`journal` is the log of decisions and the lock of the job; its `entries` are small files. `manifest` is what a checkpoint
says of itself, `uploads` how workers' files get into storage and back, `store` what may be read, verified and deleted,
and `folders` the names of it all. Everything reaches storage through the one interface in `storage.base`.
"""
