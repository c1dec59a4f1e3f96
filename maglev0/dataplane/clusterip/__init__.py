"""The CLUSTERIP dataplane, for kernels before 6.3."""
