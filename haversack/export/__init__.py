"""The folder is the list of runtimes that files are written for."""
