"""Placeholder while being written."""


def run() -> None: ...
