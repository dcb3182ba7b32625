"""One HTML page of a finished study that needs nothing beside it: no network, no other file, no framework."""
