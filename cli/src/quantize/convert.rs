//! Converting one tensor after the other, in pieces: a file needs no more memory than a few rows per thread.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use infer::gguf::{Gguf, TensorInfo};
use infer::quant::{TensorType, dequantize_row, quantize_row};
use infer::{Error, memory};

/// Values a thread converts between two reads.
const VALUES: usize = 1 << 18;
/// Bytes copied at once.
const COPY: u64 = 1 << 22;

/// The files of a model, to read tensors from.
pub struct Reader {
    files: Vec<(PathBuf, File)>,
}

/// Takes pieces of output.
pub type Sink<'a> = dyn FnMut(&[u8]) -> infer::Result<()> + 'a;

impl Reader {
    /// Opens the files again.
    pub fn open(gguf: &Gguf) -> infer::Result<Self> {
        let open = |path: &std::path::Path| {
            let file = File::open(path).map_err(|source| io("open", path.into(), source))?;
            Ok((path.to_path_buf(), file))
        };
        let files = gguf.paths().into_iter().map(open).collect::<infer::Result<_>>()?;
        Ok(Self { files })
    }

    /// Writes tensor `t` as `ty` to `sink`. `each` is told the bytes read, piece by piece, and may end the work.
    pub fn convert(
        &mut self,
        t: &TensorInfo,
        ty: TensorType,
        threads: usize,
        sink: &mut Sink<'_>,
        each: &mut dyn FnMut(u64) -> infer::Result<()>,
    ) -> infer::Result<()> {
        let (path, file) = self.files.get_mut(t.shard).ok_or_else(|| Error::Internal {
            place: "quantize".to_string(),
            message: format!("tensor '{}' is in file {} of fewer", t.name, t.shard),
        })?;
        let read = |e| io("read", path.clone(), e);
        file.seek(SeekFrom::Start(t.offset)).map_err(read)?;
        if t.ty == ty {
            let mut buffer = memory::filled(0u8, COPY.min(t.n_bytes) as usize, "a part of a tensor")?;
            let mut left = t.n_bytes;
            while left > 0 {
                let n = left.min(COPY);
                let piece = &mut buffer[..n as usize];
                file.read_exact(piece).map_err(read)?;
                sink(piece)?;
                each(n)?;
                left -= n;
            }
            return Ok(());
        }
        let shape = Shape::of(t, ty)?;
        let at_once = (threads * VALUES / shape.values).max(1).min(shape.rows);
        let mut source = memory::filled(0u8, bytes(at_once, shape.from)?, "rows of a tensor")?;
        let mut target = memory::filled(0u8, bytes(at_once, shape.to)?, "quantized rows of a tensor")?;
        let mut done = 0;
        while done < shape.rows {
            let rows = at_once.min(shape.rows - done);
            let (source, target) = (&mut source[..rows * shape.from], &mut target[..rows * shape.to]);
            file.read_exact(source).map_err(read)?;
            let per_thread = rows.div_ceil(threads);
            std::thread::scope(|scope| {
                let parts = source
                    .chunks(per_thread * shape.from)
                    .zip(target.chunks_mut(per_thread * shape.to))
                    .enumerate();
                let workers: Vec<_> = parts
                    .map(|(i, (source, target))| {
                        let first = done + i * per_thread;
                        scope.spawn(move || shape.rows(t, ty, first, source, target))
                    })
                    .collect();
                // All are joined; the first error in the order of the rows is the one told.
                let results: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
                results.into_iter().try_for_each(|r| {
                    r.unwrap_or_else(|_| {
                        Err(Error::Internal {
                            place: "quantize".to_string(),
                            message: format!("a thread failed on tensor '{}'", t.name),
                        })
                    })
                })
            })?;
            sink(target)?;
            each(source.len() as u64)?;
            done += rows;
        }
        Ok(())
    }
}

/// Rows of a tensor, and bytes of one before and after.
#[derive(Clone, Copy)]
struct Shape {
    values: usize,
    rows: usize,
    from: usize,
    to: usize,
}

impl Shape {
    fn of(t: &TensorInfo, ty: TensorType) -> infer::Result<Self> {
        let values = t.dims.first().and_then(|&n| usize::try_from(n).ok());
        let fit = values.and_then(|n| {
            let rows = usize::try_from(t.n_elements()).ok()?.checked_div(n)?;
            Some((n, rows, t.ty.row_bytes(n)?, ty.row_bytes(n)?))
        });
        let Some((values, rows, from, to)) = fit else {
            return Err(Error::InvalidModel(format!(
                "cannot convert tensor '{}' of {:?} values from {} to {ty}",
                t.name, t.dims, t.ty
            )));
        };
        Ok(Self {
            values,
            rows,
            from,
            to,
        })
    }

    /// Converts whole rows; `first` is the number of the first.
    fn rows(
        self,
        t: &TensorInfo,
        ty: TensorType,
        first: usize,
        source: &[u8],
        target: &mut [u8],
    ) -> infer::Result<()> {
        let mut row = memory::filled(0.0f32, self.values, "a row of a tensor")?;
        let pairs = source.chunks(self.from).zip(target.chunks_mut(self.to));
        for (i, (source, target)) in pairs.enumerate() {
            dequantize_row(t.ty, source, &mut row)?;
            quantize_row(ty, &row, target)
                .map_err(|e| Error::InvalidModel(format!("row {} of tensor '{}': {e}", first + i, t.name)))?;
        }
        Ok(())
    }
}

fn bytes(rows: usize, row: usize) -> infer::Result<usize> {
    rows.checked_mul(row).ok_or_else(|| {
        memory::MemoryError::Overflow {
            what: "rows of a tensor".to_string(),
            detail: format!("{rows} rows of {row} bytes"),
        }
        .into()
    })
}

fn io(action: &str, path: PathBuf, source: std::io::Error) -> Error {
    Error::Io {
        action: action.to_string(),
        path,
        source,
    }
}
