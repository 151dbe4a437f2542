-- Lets a suspended job go on.
obj.spec.suspend = false
return obj
