"""The coordinator of one job: it owns the journal, deploys attempts, assigns splits, and takes checkpoints. It touches no record.

The parts, from the outside in: `app` is the process; `http`, `metrics` and `openapi` are what the outside sees, made of
`views` and `board`; `control` holds the workers' connections. `job` runs one attempt after another; `bootstrap` and
`compatibility` say from which checkpoint, `restart` how soon. A `deployment` is one attempt: its life (`attempt`), its
checkpoints (`flow`), its splits (`splits`). `checkpoints`, `savepoints` and `reservations` keep the books, `records` and `ledger` put
them into storage. Pure decisions are in `restart`, `checkpoints`, `splits` and `compatibility`.
"""
