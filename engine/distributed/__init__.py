"""One process or many: where a rank is, the device mesh, collectives, sharded weights, and ranks that hang."""
