"""The command line: `checkdam run`, `checkdam validate`, `checkdam checkpoints`, `checkdam savepoint`.

Each command is a module that turns arguments into a call of another part and its answer into text: `run` and `validate` find the
job through `target`, `checkpoints` reads storage, `savepoints` asks the coordinator of a job that runs (`coordinators`). `main` puts the commands together and turns errors into one clear message and an
exit code (`exits`). What a command needs is imported when it runs, so that `--help` and usage errors answer at once.
"""
