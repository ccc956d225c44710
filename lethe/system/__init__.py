"""The machine and its files: devices, memory, limits, and files that somebody else made."""
