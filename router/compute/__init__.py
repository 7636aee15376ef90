"""The compute process: embedding, search and local models behind a Unix socket, so that gateway workers need none of their libraries."""
