//! A link between two network namespaces that delays, drops, reorders and duplicates packets by a seeded plan, and writes down what it truly did to each.
