"""Graph networks on lattice snapshots."""
