//! Dequantization against rows expanded by the `gguf` Python package (`NAME.rows.f32` of the fixtures).

#![allow(clippy::unwrap_used, reason = "helpers of tests stop at the first error")]

#[path = "common/skip.rs"]
mod skip;

use infer::quant::{TensorType, dequantize_row};

/// The value of `"key": ` in a flat JSON text.
fn field<'a>(json: &'a str, key: &str) -> &'a str {
    let at = json.find(&format!("\"{key}\": ")).unwrap() + key.len() + 4;
    let end = json[at..].find(['\n', '}']).unwrap();
    json[at..at + end].trim_end_matches(',').trim_matches('"')
}

/// A bare-bones walk over a GGUF v3 file, independent of the library's reader: type and bytes of one tensor.
fn tensor(file: &[u8], name: &str) -> (u32, Vec<u64>, usize) {
    struct R<'a>(&'a [u8], usize);
    impl R<'_> {
        fn take(&mut self, n: usize) -> &[u8] {
            self.1 += n;
            &self.0[self.1 - n..self.1]
        }
        fn u32(&mut self) -> u32 {
            u32::from_le_bytes(self.take(4).try_into().unwrap())
        }
        fn u64(&mut self) -> u64 {
            u64::from_le_bytes(self.take(8).try_into().unwrap())
        }
        fn string(&mut self) -> String {
            let n = self.u64() as usize;
            String::from_utf8_lossy(self.take(n)).into_owned()
        }
        fn skip(&mut self, ty: u32) {
            match ty {
                0 | 1 | 7 => drop(self.take(1).len()),
                2 | 3 => drop(self.take(2).len()),
                4..=6 => drop(self.take(4).len()),
                8 => drop(self.string()),
                9 => {
                    let (ty, n) = (self.u32(), self.u64());
                    (0..n).for_each(|_| self.skip(ty));
                }
                _ => drop(self.take(8).len()),
            }
        }
    }
    let mut r = R(file, 8);
    let (n_tensors, n_keys) = (r.u64(), r.u64());
    for _ in 0..n_keys {
        assert_ne!(r.string(), "general.alignment");
        let ty = r.u32();
        r.skip(ty);
    }
    let mut found = None;
    for _ in 0..n_tensors {
        let this = r.string();
        let dims = r.u32();
        let dims: Vec<u64> = (0..dims).map(|_| r.u64()).collect();
        let (ty, offset) = (r.u32(), r.u64());
        if this == name {
            found = Some((ty, dims, offset as usize));
        }
    }
    let data = r.1.next_multiple_of(32);
    let (ty, dims, offset) = found.unwrap();
    (ty, dims, data + offset)
}

#[test]
fn rows_equal_the_python_package_bit_for_bit() {
    let Some(shared) = skip::fixtures("rows dequantized by the Python package") else {
        return;
    };
    let dir = shared.join("fixtures/quant");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let json = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let file = std::fs::read(dir.join(format!("{name}.gguf"))).unwrap();
        let (id, dims, at) = tensor(&file, field(&json, "rows_tensor"));
        let ty = TensorType::from_id(id).unwrap_or_else(|| panic!("{name}: type {id}"));
        assert_eq!(ty.name(), field(&json, "rows_type"));
        let n = dims[0] as usize;
        let bytes = ty.row_bytes(n).unwrap();
        let expected = std::fs::read(dir.join(format!("{name}.rows.f32"))).unwrap();
        if !ty.is_supported() {
            let e = dequantize_row(ty, &file[at..at + bytes], &mut vec![0.0; n]).unwrap_err();
            assert!(e.to_string().contains(ty.name()), "{e}");
            continue;
        }
        seen.push(ty);
        let mut row = vec![0.0f32; n];
        assert_eq!(expected.len(), 4 * 4 * n, "{name}");
        for (r, expected) in expected.chunks_exact(4 * n).enumerate() {
            dequantize_row(ty, &file[at + r * bytes..at + (r + 1) * bytes], &mut row).unwrap();
            for (i, (y, e)) in row.iter().zip(expected.chunks_exact(4)).enumerate() {
                let e = f32::from_le_bytes(e.try_into().unwrap());
                assert_eq!(
                    y.to_bits(),
                    e.to_bits(),
                    "{name} row {r} value {i}: {y} against {e}"
                );
            }
        }
    }
    for ty in TensorType::all().filter(|t| t.is_supported() && *t != TensorType::F32) {
        assert!(seen.contains(&ty), "no fixture covered {ty}");
    }
}
