"""The service: HTTP, the one request flow, accounting, the processes and the command line."""
