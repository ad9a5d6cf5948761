"""Matter that flows, as particles: `mpm` moves them among `obstacles`, `filling` says where they start, `beads` draws."""
