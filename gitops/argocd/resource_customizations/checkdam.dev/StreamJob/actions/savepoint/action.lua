-- Takes a savepoint. It has no owner, so that it outlives the job, which is what savepoints are for.
local savepoint = {
  apiVersion = obj.apiVersion,
  kind = "Savepoint",
  metadata = {
    name = obj.metadata.name .. "-" .. os.date("!%Y%m%d%H%M%S"),
    namespace = obj.metadata.namespace,
  },
  spec = { job = obj.metadata.name },
}
return { { operation = "create", resource = savepoint } }
