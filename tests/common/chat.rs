//! The demo model as one to chat with.

use std::path::{Path, PathBuf};

use infer::gguf::{Gguf, GgufWriter, LoadOptions, Value};

/// Writes the demo model with a chat template into a folder.
pub fn demo_model(folder: &Path) -> PathBuf {
    let gguf = Gguf::open(&super::demo_model()).unwrap();
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        writer.insert(key, value.clone()).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant:{% endif %}";
    writer
        .insert("tokenizer.chat_template", Value::String(template.into()))
        .unwrap();
    let bytes: Vec<Vec<u8>> = gguf
        .tensors()
        .iter()
        .map(|t| data.get(&t.name).unwrap().to_vec())
        .collect();
    for (tensor, bytes) in gguf.tensors().iter().zip(&bytes) {
        writer
            .tensor(tensor.name.clone(), &tensor.dims, tensor.ty, bytes.as_slice())
            .unwrap();
    }
    let path = folder.join("chat.gguf");
    writer.write_file(&path).unwrap();
    path
}
