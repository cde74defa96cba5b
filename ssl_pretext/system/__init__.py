"""What the library asks of the operating system: files, locks, processes, devices and memory."""
