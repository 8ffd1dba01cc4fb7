//! Any bytes are either refused, or a model whose tensors can be read and which survives being written again.

use infer::gguf::{Gguf, GgufWriter, LoadOptions};

/// Parses and loads `data`; panics when the reader's promises do not hold.
pub fn run(data: &[u8]) {
    let Ok(gguf) = Gguf::from_bytes(data) else { return };
    let tensors = gguf
        .load(&LoadOptions::default(), &mut |_, _| true)
        .expect("a model in memory loads");
    let mut writer = GgufWriter::new();
    writer.version(gguf.version()).expect("a version that was read");
    for (key, value) in gguf.metadata().iter() {
        writer.insert(key, value.clone()).expect("an entry that was read");
    }
    for t in gguf.tensors() {
        assert_eq!(gguf.tensor(&t.name), Some(t));
        let bytes = tensors.get(&t.name).expect("every tensor is loaded");
        let (start, len) = (t.offset as usize, t.n_bytes as usize);
        assert_eq!(*bytes, data[start..start + len]);
        assert_eq!(bytes.as_ptr().addr() % 8, 0);
        writer
            .tensor(&t.name, &t.dims, t.ty, bytes.to_vec())
            .expect("a tensor that was read");
    }
    let mut out = Vec::new();
    writer.write_to(&mut out).expect("a model that was read");
    let again = Gguf::from_bytes(&out).expect("a model that was written");
    // Compared as text: NaN is not equal to itself.
    assert_eq!(
        format!("{:?}", again.metadata().iter().collect::<Vec<_>>()),
        format!("{:?}", gguf.metadata().iter().collect::<Vec<_>>())
    );
    for (a, b) in again.tensors().iter().zip(gguf.tensors()) {
        assert_eq!((&a.name, &a.dims, a.ty), (&b.name, &b.dims, b.ty));
    }
    assert_eq!(again.tensors().len(), gguf.tensors().len());
}
