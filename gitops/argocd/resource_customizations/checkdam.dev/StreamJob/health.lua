-- The health of a StreamJob, for Argo CD. What the operator has not looked at yet, or what is under way, is Progressing; what does not go on by itself is Degraded.
-- Argo CD runs this without Lua's string library.

local function condition(kind)
  for _, found in ipairs(obj.status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return { status = "Unknown" }
end

local function health(status, message)
  return { status = status, message = message or "" }
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "the job is being deleted")
end
if obj.status == nil or obj.status.observedGeneration == nil then
  return health("Progressing", "the operator has not seen the job yet")
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "the operator has not seen the newest spec yet")
end

local stalled, ready, checkpoints = condition("Stalled"), condition("Ready"), condition("CheckpointHealthy")
if stalled.status == "True" then
  return health("Degraded", stalled.message)
end
if ready.status ~= "True" then
  return health("Progressing", ready.message)
end
if obj.status.state == "Suspended" then
  return health("Suspended", ready.message)
end
if checkpoints.status == "False" then
  return health("Degraded", checkpoints.message)
end
return health("Healthy", ready.message)
