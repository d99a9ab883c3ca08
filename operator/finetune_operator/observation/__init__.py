"""Maps child Jobs and pods to the runs that the plan uses. Pure."""
