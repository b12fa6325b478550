"""The command line: parse, call one function of `qsr.jobs`, show what it returns."""
