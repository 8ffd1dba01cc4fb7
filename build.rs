//! Writes the C header and the link arguments of the shared library.

fn main() {}
