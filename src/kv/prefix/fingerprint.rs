//! What keys and values depend on beside the tokens. Blocks of one fingerprint are never read under another.

use std::fmt::{Display, Write};

use crate::kv::{BLOCK_TOKENS, Geometry};

/// Version of the arithmetic. It is raised with every change that alters a bit of a key or value; a test with the
/// bits of a fixed prompt (`tests/numerics.rs`) asks for it.
pub const NUMERICS_VERSION: u32 = 2;

/// Version of the layout of blocks, raised with every change of where an element lies.
const LAYOUT_VERSION: u32 = 1;

/// What the content of a block depends on beside its tokens, as lines `name=value`: model, layout, element type, CPU
/// level, precision, versions. It is text so that a difference can be told in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of a layout and whatever else identifies the model and how it is computed. Names and values have no line breaks.
    pub fn new(geometry: &Geometry, parts: &[(&str, &dyn Display)]) -> Self {
        let mut text =
            format!("numerics={NUMERICS_VERSION}\nlayout={LAYOUT_VERSION}\nblock_tokens={BLOCK_TOKENS}\n");
        let mut part = |name: &str, value: &dyn Display| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}={value}");
        };
        part("kv_type", &geometry.row_type().name());
        part("layers", &geometry.shapes());
        for (name, value) in parts {
            part(name, value);
        }
        Self(text)
    }

    /// The lines.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What another one has in the first part that differs, and what this one has; `None` when they are equal.
    pub fn difference(&self, other: &str) -> Option<String> {
        let (mut ours, mut theirs) = (self.0.lines(), other.lines());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return (self.0 != other).then(|| "line breaks".to_string()),
                (a, b) if a == b => {}
                (a, b) => {
                    let (a, b) = (a.unwrap_or("nothing"), b.unwrap_or("nothing"));
                    return Some(format!("expected {a:?}, found {b:?}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RowType;
    use crate::kv::LayerShape;

    #[test]
    fn a_difference_is_named() {
        let shape = LayerShape {
            n_kv_heads: 2,
            key_dim: 64,
            value_dim: 32,
            window: None,
        };
        let of = |row_type, layers, level: &str| {
            let geometry = Geometry::new(row_type, vec![shape; layers]).unwrap();
            Fingerprint::new(&geometry, &[("cpu_level", &level), ("exact", &false)])
        };
        let a = of(RowType::F16, 3, "avx2");
        assert_eq!(a.difference(a.as_str()), None);
        for (b, expected) in [
            (
                of(RowType::Q8, 3, "avx2"),
                "expected \"kv_type=f16\", found \"kv_type=q8\"",
            ),
            (
                of(RowType::F16, 2, "avx2"),
                "expected \"layers=3*2/64/32\", found \"layers=2*2/64/32\"",
            ),
            (
                of(RowType::F16, 3, "scalar"),
                "expected \"cpu_level=avx2\", found \"cpu_level=scalar\"",
            ),
        ] {
            assert_ne!(a, b);
            assert_eq!(a.difference(b.as_str()).as_deref(), Some(expected));
        }
        assert!(a.difference("").is_some());
        assert!(a.difference(a.as_str().trim_end()).is_some());
    }
}
