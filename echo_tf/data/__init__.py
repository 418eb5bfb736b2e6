"""Data sets: the paper's, small ones that need no download, and arrays of one's own."""
