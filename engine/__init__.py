"""The stage engine: runs objectives on 1..N processes and feeds them clips. Knows no model and no physics."""
