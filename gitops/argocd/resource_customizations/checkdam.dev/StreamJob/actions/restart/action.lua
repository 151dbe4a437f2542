-- Restarts the job as a change of its image would: by the mode of `spec.upgrade`, with its state.
obj.spec.restartNonce = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
