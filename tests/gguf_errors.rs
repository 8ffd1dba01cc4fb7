//! Every malformed GGUF file is answered with an error that names what is wrong. Each test builds its file from
//! bytes, so that the writer's own checks cannot hide a hole in the reader.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use infer::Error;
use infer::gguf::Gguf;

/// A little-endian byte string, in the layout of GGUF version 3.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(version: u32, tensors: u64, metadata: u64) -> Self {
        Self::default()
            .raw(b"GGUF")
            .u32(version)
            .u64(tensors)
            .u64(metadata)
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u32(self, v: u32) -> Self {
        self.raw(&v.to_le_bytes())
    }
    fn u64(self, v: u64) -> Self {
        self.raw(&v.to_le_bytes())
    }
    fn string(self, s: impl AsRef<[u8]>) -> Self {
        let s = s.as_ref();
        self.u64(s.len() as u64).raw(s)
    }
    /// Key and value type; the value follows.
    fn key(self, key: &str, ty: u32) -> Self {
        self.string(key).u32(ty)
    }
    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let mut b = self.string(name).u32(dims.len() as u32);
        for &d in dims {
            b = b.u64(d);
        }
        b.u32(ty).u64(offset)
    }
    /// Padding to 32 and `n` bytes of data.
    fn data(mut self, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 7);
        self
    }
}

const F32: u32 = 0;

#[track_caller]
fn refused(bytes: &Bytes, message: &str) {
    refused_raw(&bytes.0, message);
}

/// From memory and from a file, with the same message.
#[track_caller]
fn refused_raw(bytes: &[u8], message: &str) {
    let e = Gguf::from_bytes(bytes).expect_err("a malformed file must be refused");
    assert!(matches!(e, Error::Gguf(_)), "{e:?}");
    assert!(e.to_string().contains(message), "expected '{message}' in '{e}'");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    let e = Gguf::open(&path).expect_err("a malformed file must be refused");
    assert!(e.to_string().contains(message), "expected '{message}' in '{e}'");
    assert!(
        e.to_string().contains("bad.gguf"),
        "the message names no file: '{e}'"
    );
}

/// One metadata entry, whose key, type and value are `entry`.
fn with_entry(entry: impl FnOnce(Bytes) -> Bytes) -> Bytes {
    entry(Bytes::header(3, 0, 1))
}

/// One tensor and 4096 bytes of data.
fn with_tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Bytes {
    Bytes::header(3, 1, 0).tensor(name, dims, ty, offset).data(4096)
}

// Header

#[test]
fn bad_magic() {
    refused_raw(
        b"GGML\x03\0\0\0 and more of something else",
        "begins with 'GGML' instead of 'GGUF'",
    );
    refused_raw(b"\x7fELF\x02\x01\x01\0", r"begins with '\x7fELF'");
}

#[test]
fn empty_file() {
    refused_raw(b"", "the file is empty");
}

#[test]
fn four_byte_file_and_shorter_ones() {
    refused_raw(
        b"GGUF",
        "the file ends inside the version: 4 bytes expected at offset 4, 0 left",
    );
    for n in 1..4 {
        refused_raw(&b"GGUF"[..n], "the file ends inside the magic");
    }
}

#[test]
fn version_zero_and_future_versions() {
    refused(
        &Bytes::header(0, 0, 0),
        "GGUF version 0 is not supported; versions 1 to 3 are",
    );
    refused(&Bytes::header(4, 0, 0), "GGUF version 4 is not supported");
    refused(&Bytes::header(u32::MAX, 0, 0), "GGUF version 4294967295");
}

#[test]
fn byte_swapped_files() {
    for version in 1..=3u32 {
        refused(
            &Bytes::header(version.swap_bytes(), 0, 0),
            "big-endian (byte-swapped)",
        );
    }
    refused_raw(b"FUGG\0\0\0\x03", "big-endian (byte-swapped)");
}

#[test]
fn huge_and_negative_counts() {
    for count in [u64::MAX, i64::MIN as u64, 1 << 40, 1000] {
        refused(
            &Bytes::header(3, count, 0),
            &format!("the header counts {count} tensors"),
        );
        refused(
            &Bytes::header(3, 0, count),
            &format!("the header counts {count} metadata entries"),
        );
    }
    let v1 = Bytes::default().raw(b"GGUF").u32(1).u32(u32::MAX).u32(0);
    refused(&v1, "the header counts 4294967295 tensors");
}

#[test]
fn truncation_at_every_byte() {
    let whole = Bytes::header(3, 2, 3)
        .key("general.architecture", 8)
        .string("llama")
        .key("a.list", 9)
        .u32(8)
        .u64(2)
        .string("x")
        .string("yz")
        .key("a.number", 4)
        .u32(7)
        .tensor("one", &[8, 2], F32, 0)
        .tensor("two", &[8], F32, 64)
        .data(96);
    let gguf = Gguf::from_bytes(&whole.0).unwrap();
    assert_eq!((gguf.tensors().len(), gguf.metadata().len()), (2, 3));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    for n in 0..whole.0.len() {
        let cut = &whole.0[..n];
        let e = Gguf::from_bytes(cut).expect_err("a cut file must be refused");
        assert!(matches!(e, Error::Gguf(_)), "cut at {n}: {e:?}");
        std::fs::write(&path, cut).unwrap();
        Gguf::open(&path).expect_err("a cut file must be refused");
    }
}

// Metadata

#[test]
fn empty_key() {
    refused(
        &with_entry(|b| b.key("", 4).u32(1)),
        "metadata entry 0 has an empty key",
    );
}

#[test]
fn huge_keys() {
    let long = "k".repeat(65_536);
    refused(
        &with_entry(|b| b.key(&long, 4).u32(1)),
        "metadata entry 0 has a key of 65536 bytes; at most 65535",
    );
    assert!(Gguf::from_bytes(&with_entry(|b| b.key(&long[1..], 4).u32(1)).0).is_ok());
    refused(
        &with_entry(|b| b.u64(u64::MAX).u64(0)),
        "has a key of 18446744073709551615 bytes",
    );
}

#[test]
fn key_longer_than_the_file() {
    refused(
        &with_entry(|b| b.u64(60_000).u64(0)),
        "the key of metadata entry 0 claims 60000 bytes, but only 8 are left",
    );
}

#[test]
fn unknown_value_type() {
    for ty in [13, 255, u32::MAX] {
        refused(
            &with_entry(|b| b.key("a.b", ty).u64(1)),
            &format!("metadata key 'a.b' has the unknown value type {ty}"),
        );
    }
}

#[test]
fn unknown_element_type() {
    refused(
        &with_entry(|b| b.key("a.b", 9).u32(13).u64(0)),
        "metadata key 'a.b' is an array of the unknown element type 13",
    );
}

#[test]
fn duplicate_key() {
    let b = Bytes::header(3, 0, 2)
        .key("a.b", 4)
        .u32(1)
        .key("a.b", 8)
        .string("x");
    refused(&b, "metadata key 'a.b' occurs twice");
}

#[test]
fn unusable_alignments() {
    for found in [0u32, 1, 4, 24, 33, (1 << 20) + 1, 1 << 21, u32::MAX] {
        refused(
            &with_entry(|b| b.key("general.alignment", 4).u32(found)),
            &format!("general.alignment is {found}; a power of two from 8 to 1048576"),
        );
    }
    for good in [8u32, 32, 1 << 20] {
        let b = with_entry(|b| b.key("general.alignment", 4).u32(good));
        assert_eq!(Gguf::from_bytes(&b.0).unwrap().alignment(), u64::from(good));
    }
}

#[test]
fn alignment_of_a_wrong_type() {
    refused(
        &with_entry(|b| b.key("general.alignment", 10).u64(32)),
        "'general.alignment': expected u32, found u64",
    );
    refused(
        &with_entry(|b| b.key("general.alignment", 8).string("32")),
        "'general.alignment': expected u32, found string",
    );
}

#[test]
fn string_past_the_end() {
    for len in [6, 1 << 33, u64::MAX] {
        refused(
            &with_entry(|b| b.key("a.b", 8).u64(len).raw(b"hello")),
            &format!("the value of metadata key 'a.b' claims {len} bytes, but only 5 are left"),
        );
    }
}

#[test]
fn array_count_times_size_overflows_or_passes_the_end() {
    for (ty, name) in [(4, "u32"), (8, "strings"), (12, "f64"), (7, "bools"), (0, "u8")] {
        for count in [100u64, 1 << 61, 1 << 62, (1 << 62) + 1, u64::MAX] {
            refused(
                &with_entry(|b| b.key("a.b", 9).u32(ty).u64(count).raw(b"hello")),
                &format!("metadata key 'a.b' claims an array of {count} {name}, but only 5 bytes"),
            );
        }
    }
}

#[test]
fn nested_arrays() {
    refused(
        &with_entry(|b| b.key("a.b", 9).u32(9).u64(1).u32(4).u64(1).u32(5)),
        "metadata key 'a.b' is an array of arrays",
    );
}

#[test]
fn string_in_an_array_past_the_end() {
    refused(
        &with_entry(|b| b.key("a.b", 9).u32(8).u64(2).string("fine").u64(50).raw(b"short")),
        "the value of metadata key 'a.b' claims 50 bytes, but only 5 are left",
    );
}

#[test]
fn bool_other_than_0_and_1() {
    refused(
        &with_entry(|b| b.key("a.b", 7).raw(&[2])),
        "metadata key 'a.b' holds the bool 2; 0 or 1 was expected",
    );
    refused(
        &with_entry(|b| b.key("a.b", 9).u32(7).u64(3).raw(&[0, 1, 255])),
        "metadata key 'a.b' holds the bool 255",
    );
}

#[test]
fn invalid_utf8() {
    refused(
        &with_entry(|b| b.string(b"a\xffb").u32(4).u32(1)),
        "the key of metadata entry 0 is not valid UTF-8 (byte 1 of it)",
    );
    refused(
        &with_entry(|b| b.key("a.b", 8).string(b"ok\xc3")),
        "the value of metadata key 'a.b' is not valid UTF-8 (byte 2 of it)",
    );
    refused(
        &with_entry(|b| b.key("a.b", 9).u32(8).u64(1).string(b"\xed\xa0\x80")),
        "the value of metadata key 'a.b' is not valid UTF-8",
    );
    let b = Bytes::header(3, 1, 0)
        .string(b"\x80")
        .u32(1)
        .u64(1)
        .u32(F32)
        .u64(0);
    refused(&b.data(32), "the name of tensor 0 is not valid UTF-8");
}

#[test]
fn nul_in_a_key() {
    refused(
        &with_entry(|b| b.key("a\0b", 4).u32(1)),
        r"metadata key 'a\u{0}b' contains a NUL byte",
    );
}

// Tensors

#[test]
fn tensor_name_too_long_or_empty() {
    let name = "n".repeat(65);
    refused(
        &with_tensor(&name, &[8], F32, 0),
        "tensor 0 has a name of 65 bytes; at most 64",
    );
    assert!(Gguf::from_bytes(&with_tensor(&name[1..], &[8], F32, 0).0).is_ok());
    refused(&with_tensor("", &[8], F32, 0), "tensor 0 has an empty name");
    refused(
        &with_tensor("a\0", &[8], F32, 0),
        r"tensor name 'a\u{0}' contains a NUL byte",
    );
}

#[test]
fn duplicate_tensor() {
    let b = Bytes::header(3, 2, 0)
        .tensor("w", &[8], F32, 0)
        .tensor("w", &[8], F32, 32)
        .data(64);
    refused(&b, "tensor 'w' occurs twice");
}

#[test]
fn no_dimension_or_more_than_four() {
    refused(
        &with_tensor("w", &[1, 1, 1, 1, 1], F32, 0),
        "tensor 'w' has 5 dimensions; 1 to 4 were expected",
    );
    refused(&with_tensor("w", &[], F32, 0), "tensor 'w' has 0 dimensions");
    let b = Bytes::header(3, 1, 0).string("w").u32(u32::MAX).data(64);
    refused(&b, "tensor 'w' has 4294967295 dimensions");
}

#[test]
fn zero_dimension() {
    refused(
        &with_tensor("w", &[8, 0, 2], F32, 0),
        "dimension 1 of tensor 'w' is zero",
    );
}

#[test]
fn number_of_elements_overflows() {
    refused(
        &with_tensor("w", &[1 << 32, 1 << 32], F32, 0),
        "the number of elements of tensor 'w' with dimensions [4294967296, 4294967296] overflows",
    );
    refused(
        &with_tensor("w", &[u64::MAX, 2, 2, 2], F32, 0),
        "the number of elements of tensor 'w'",
    );
}

#[test]
fn number_of_bytes_overflows() {
    refused(
        &with_tensor("w", &[1 << 62], F32, 0),
        "the number of bytes of tensor 'w'",
    );
    refused(
        &with_tensor("w", &[1 << 60, 15], 28, 0),
        "the number of bytes of tensor 'w'",
    );
}

#[test]
fn end_or_padding_overflows() {
    refused(
        &with_tensor("w", &[8], F32, u64::MAX - 31),
        "tensor 'w' of 32 bytes at data offset 18446744073709551584 ends beyond 64 bits",
    );
    // The data itself still fits 64 bits; its padding does not.
    refused(
        &with_tensor("w", &[u64::MAX - 74], 24, 0),
        "tensor 'w' of 18446744073709551541 bytes at data offset 0 ends beyond 64 bits",
    );
}

#[test]
fn removed_and_unknown_tensor_types() {
    for id in [4, 5, 31, 32, 33, 36, 37, 38] {
        refused(
            &with_tensor("w", &[256], id, 0),
            &format!("tensor 'w' has type {id}, which was removed from the format"),
        );
    }
    for id in [99, 1000, u32::MAX] {
        refused(
            &with_tensor("w", &[256], id, 0),
            &format!("tensor 'w' has type {id}, which is unknown to this version"),
        );
    }
}

#[test]
fn row_that_is_not_a_multiple_of_the_block() {
    refused(
        &with_tensor("w", &[48, 2], 8, 0),
        "tensor 'w' of type Q8_0 has rows of 48 elements, not a multiple of its block of 32",
    );
    refused(
        &with_tensor("w", &[128, 2], 12, 0),
        "tensor 'w' of type Q4_K has rows of 128 elements, not a multiple of its block of 256",
    );
}

#[test]
fn unaligned_offset() {
    refused(
        &with_tensor("w", &[8], F32, 16),
        "tensor 'w' begins at data offset 16, not a multiple of the alignment 32",
    );
}

#[test]
fn overlapping_tensors() {
    let b = Bytes::header(3, 3, 0)
        .tensor("c", &[8], F32, 128)
        .tensor("b", &[16], F32, 32)
        .tensor("a", &[16], F32, 0)
        .data(4096);
    refused(&b, "tensors 'a' and 'b' overlap");
    let same = Bytes::header(3, 2, 0)
        .tensor("a", &[8], F32, 0)
        .tensor("b", &[8], F32, 0)
        .data(4096);
    refused(&same, "overlap in the file");
}

#[test]
fn data_past_the_end_of_the_file() {
    refused(
        &with_tensor("w", &[1024, 2], F32, 0),
        "tensor 'w' ends at byte 8288, but the file has only 4192 bytes",
    );
    refused(
        &with_tensor("w", &[8], F32, 1 << 40),
        "but the file has only 4160 bytes",
    );
}

#[test]
fn many_tensors_are_checked_for_overlap_in_no_time() {
    let n = 200_000u64;
    let mut b = Bytes::header(3, n, 0);
    for i in 0..n {
        b = b.tensor(&i.to_string(), &[8], F32, (n - 1 - i) * 32);
    }
    let b = b.data(n as usize * 32);
    let start = std::time::Instant::now();
    assert_eq!(Gguf::from_bytes(&b.0).unwrap().tensors().len() as u64, n);
    // Pairs would be 2e10; the bound is generous for a slow machine and a debug build.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

// Files that are no files, and files that are good.

#[test]
fn missing_file_and_directory() {
    let dir = tempfile::tempdir().unwrap();
    let e = Gguf::open(&dir.path().join("none.gguf")).unwrap_err();
    assert!(
        e.to_string().contains("cannot open") && e.to_string().contains("none.gguf"),
        "{e}"
    );
    let e = Gguf::open(dir.path()).unwrap_err();
    assert!(e.to_string().contains("not a regular file"), "{e}");
}

#[test]
fn header_beyond_the_limit_costs_no_memory() {
    // A sparse file of 1 TiB whose one string claims almost all of it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.gguf");
    let head = with_entry(|b| b.key("a.b", 8).u64(1 << 39));
    std::fs::write(&path, &head.0).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let e = Gguf::open(&path).unwrap_err().to_string();
    assert!(e.contains("the limit for metadata and tensor table"), "{e}");
}

#[test]
fn files_without_tensors_or_without_anything_are_fine() {
    let vocabulary = with_entry(|b| b.key("tokenizer.ggml.model", 8).string("gpt2"));
    let gguf = Gguf::from_bytes(&vocabulary.0).unwrap();
    assert!(gguf.tensors().is_empty());
    assert_eq!(gguf.metadata().str("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    let data = gguf.load(&Default::default(), &mut |_, _| true).unwrap();
    assert!(data.is_empty());
    assert!(
        Gguf::from_bytes(&Bytes::header(2, 0, 0).0)
            .unwrap()
            .metadata()
            .is_empty()
    );
}
