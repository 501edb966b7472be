"""A whole cluster in one process: virtual time, one seed, faults, and checks of what clients were promised."""
