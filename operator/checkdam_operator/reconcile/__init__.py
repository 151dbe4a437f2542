"""Carrying decisions out: one job, one look, and no memory that cannot be built anew.

`reconciler` looks at a job, has it decided, and does what was decided in order; `seeing` puts together what a decision depends on, `doing` carries
out single actions, `stuck` asks the API server why pods do not start, `memory` is what is remembered of a job between two looks to save requests.
"""
