-- Which actions Argo CD offers for a StreamJob.

local state = obj.status ~= nil and obj.status.state or nil
local suspended = obj.spec.suspend == true

return {
  suspend = { disabled = suspended, iconClass = "fa-solid fa-fw fa-pause" },
  resume = { disabled = not suspended, iconClass = "fa-solid fa-fw fa-play" },
  restart = { disabled = suspended, iconClass = "fa-solid fa-fw fa-rotate-right" },
  savepoint = { disabled = state ~= "Running", iconClass = "fa-solid fa-fw fa-floppy-disk", displayName = "Take a savepoint" },
}
