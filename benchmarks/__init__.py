"""Every speed claim: cases, peers, and committed results with their provenance."""
