"""The operating system: files, locks, processes, devices and memory."""
