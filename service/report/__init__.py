"""The session report and the live page. Reserved: nothing is here yet."""
