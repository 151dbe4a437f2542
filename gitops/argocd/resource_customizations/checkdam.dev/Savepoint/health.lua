-- The health of a Savepoint, for Argo CD. Argo CD runs this without Lua's string library.

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
  return health("Progressing", "the savepoint is being deleted")
end
if obj.status == nil or obj.status.observedGeneration == nil then
  return health("Progressing", "the operator has not seen the savepoint yet")
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "the operator has not seen the newest spec yet")
end

local stalled, ready = condition("Stalled"), condition("Ready")
if stalled.status == "True" then
  return health("Degraded", stalled.message)
end
if ready.status == "True" then
  return health("Healthy", obj.status.uri)
end
return health("Progressing", ready.message)
