"""How bytes are read: a bounded pool of open files, and servers."""
