"""The error of a process whose fellow, of the same torchrun, has ended."""


class ProcessEnded(ConnectionError):
    """Raised where processes compute together and one has ended. That one knows the cause."""
