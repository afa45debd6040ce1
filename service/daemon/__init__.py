"""The one loop, and every decision about movies, versions and child processes."""
