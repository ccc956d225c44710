"""The commands, a file each. In a checkout the scripts at the root run them."""
