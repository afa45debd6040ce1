"""One network per file with its application, and how they are optimised."""
