"""Changes to the behaviour of libraries, one file for each library."""
