"""The deterministic core: state machines that read no clock, socket, file or random source."""
