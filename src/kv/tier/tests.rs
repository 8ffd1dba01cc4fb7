//! Tests of the tier over storage in memory that can be made to fail.
