"""What every other part stands on: batches, time, keys, value encoding and errors.

Nothing here starts a thread, opens a file or knows that jobs, workers or checkpoints exist.
"""
