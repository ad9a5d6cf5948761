"""What flows, as particles: `filling` says where they start, `mpm` moves them among `obstacles`, `beads` draws."""
