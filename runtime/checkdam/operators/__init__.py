"""What runs in a subtask: each operator takes batches and yields batches, in the task thread alone.

`base` is the contract with the task loop. `source` and `sink` are the ends of a pipeline; `stateless`, `aggregate`,
`windows` and `sessions`, `process`, `joins`, `broadcast` and `async_io` are what lies between. What users write for them
is in `functions` (process functions and their state), `aggregators`, `assigners` (windows) and `watermarks`.

Below these: `handles` binds state to the key at hand, `calls` and `user` call the user's functions, `timer_order` fires
timers in order, `panes`, `firing` and `progress` are shared by windows, `fields` reads a field of every record.
"""
