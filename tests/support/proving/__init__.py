"""Plans, mutants of the core and a real store for the tests of the search."""
