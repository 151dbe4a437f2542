"""What every other part stands on: batches, time, keys, value encoding and errors.

Values become bytes in `serde`, by types that `declared` finds fit. How such types may change between two versions of a job is
told by `schema` (a type as data), `evolution` (two of them compared), `formerly` and `renames` (what was called otherwise before).

Nothing here starts a thread, opens a file or knows that jobs, workers or checkpoints exist.
"""
