//! Texts and token ids from the command line, files and standard input.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Token ids as the command line gives them: `1,2,3`.
#[derive(Debug, Clone)]
pub struct Ids(pub Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("expected token ids separated by commas, found none".to_string());
        }
        text.split(',')
            .enumerate()
            .map(|(i, part)| {
                part.trim().parse().map_err(|_| {
                    format!(
                        "expected whole numbers from 0 to {} separated by commas, found '{}' as number {}",
                        u32::MAX,
                        part.chars().take(40).collect::<String>(),
                        i + 1
                    )
                })
            })
            .collect::<Result<_, _>>()
            .map(Ids)
    }
}

/// The text to work on: given directly, or read from `file` (`-` is standard input), or from standard input when
/// that is not a terminal. `flag` names the flag of the direct text. More than `limit` bytes are refused.
pub fn text(
    direct: Option<&String>,
    file: Option<&PathBuf>,
    flag: &str,
    limit: u64,
) -> Result<String, Failure> {
    if let Some(text) = direct {
        return within(text.len() as u64, limit, "the text").map(|()| text.clone());
    }
    match file {
        Some(path) if path != Path::new("-") => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).map_err(|e| Failure::io(&format!("open {name}"), &e))?;
            read(file, &name, limit)
        }
        None if std::io::stdin().is_terminal() => Err(Failure::Usage(format!(
            "nothing to read: give {flag} or --file, or pipe a text into standard input"
        ))),
        _ => read(std::io::stdin().lock(), "standard input", limit),
    }
}

fn within(len: u64, limit: u64, name: &str) -> Result<(), Failure> {
    if len > limit {
        return Err(Failure::Failed(format!(
            "{name} is longer than {limit} bytes, the limit for a text"
        )));
    }
    Ok(())
}

fn read(source: impl Read, name: &str, limit: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::io(&format!("read {name}"), &e))?;
    within(bytes.len() as u64, limit, name)?;
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let byte = e.as_bytes().get(offset).copied().unwrap_or_default();
        Failure::Failed(format!(
            "cannot read {name}: it is not UTF-8 text (byte {byte:#04x} at offset {offset})"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_between_commas() {
        let ids = |t: &str| t.parse::<Ids>().map(|i| i.0);
        assert_eq!(ids("1,2, 4294967295"), Ok(vec![1, 2, u32::MAX]));
        assert_eq!(ids("0"), Ok(vec![0]));
        assert!(ids("").unwrap_err().contains("found none"));
        assert!(ids("1,x").unwrap_err().contains("found 'x' as number 2"));
        assert!(ids("1,").unwrap_err().contains("found '' as number 2"));
        assert!(ids("-1").is_err() && ids("4294967296").is_err());
    }

    #[test]
    fn a_text_that_is_not_utf8_names_its_source_and_offset() {
        let e = read(&b"ab\xffc"[..], "prompt.txt", 100).unwrap_err();
        let Failure::Failed(sentence) = e else {
            panic!("{e:?}")
        };
        assert!(
            sentence.contains("prompt.txt") && sentence.contains("0xff at offset 2"),
            "{sentence}"
        );
        assert!(read(&b"abcd"[..], "x", 3).is_err());
        assert_eq!(read(&b"abc"[..], "x", 3).unwrap(), "abc");
    }
}
