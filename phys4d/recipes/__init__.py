"""Run files that come with phys4d."""
