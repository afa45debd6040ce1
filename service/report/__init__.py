"""The session report and the live page. A place for them; nothing is here yet."""
