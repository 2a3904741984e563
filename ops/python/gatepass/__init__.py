"""A second implementation of gp1, written from docs/PROTOCOL.md: what the Rust one is checked against."""
