"""The process that runs one program. Its modules import nothing but the standard library."""
