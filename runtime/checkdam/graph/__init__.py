"""TODO-DOC graph."""
