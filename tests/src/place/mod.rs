//! Cgroups and network namespaces that clean up after themselves.
