"""The trio shell: sockets, timers, the flush thread and signals."""
