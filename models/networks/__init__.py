"""One network per file with its application, and the loop that trains them."""
