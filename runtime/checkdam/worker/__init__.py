"""A worker: one subtask of every stage of a job, in a task process that a small supervisor watches over.

`supervisor` keeps the connection to the coordinator and forks one task process per attempt. In it, `task` wires up an
attempt and `loop` runs it: one thread owns all subtasks and their state (`subtask`). `channels` are the queues between
subtasks, in the process or across (`exchange`); `snapshots` turns barriers into acknowledged checkpoints.
"""
