"""`vivo demo`: the whole job on the embedded world, from pictures to a nocaps table and a report."""
