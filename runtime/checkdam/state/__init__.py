"""TODO-DOC state."""
