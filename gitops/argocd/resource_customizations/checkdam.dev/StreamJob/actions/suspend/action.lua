-- Stops the job with its state kept.
obj.spec.suspend = true
return obj
