"""What a cache keeps on its disk: files, their catalogue, and the index of both in shared memory."""
