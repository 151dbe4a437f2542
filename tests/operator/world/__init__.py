"""A simulated world for the operator: API server, nodes, storage, coordinators and workers as one deterministic program.

The operator's own code runs in it unchanged, several instances of it if need be. Time is virtual (`loop`), and every choice of what happens when, of
what fails and of where an operator is killed comes from one seed (`chance`), so a run can be repeated. `server` keeps objects as an API server does
and shows its changes late; `nodes` start, stop and lose pods; `storage` holds the journals, whose conditional create is the only lock there is; `coordinator` and
`worker` are the processes in pods; `operators` puts an operator together; `story` is what people and fate do to a job; `rules` says what must never happen
and what must be so in the end; `run` plays a story.
"""
