"""Rules: what an update is and when it may be believed. Bytes in, bytes out: no file, clock or link is touched."""
