"""What a job remembers: its journal, its checkpoints, and the storage that both lie in.

`journal` is the log of decisions and the lock of the job; its `entries` are small files. `manifest` is what a checkpoint
says of itself, `uploads` how workers' files get into storage and back, `store` what may be read, verified and deleted,
`copies` makes copies that need nothing else, `verification` looks at a whole job's folder, `opening` finds what a uri names, and `folders` has the names of it all.
Everything reaches storage through the one interface in `storage.base`.
"""
