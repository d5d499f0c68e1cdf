"""The tests, a package: some installed distributions bring a package `tests` of their own, which must not win."""
