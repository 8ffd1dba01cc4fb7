//! The demo model: what commands use without `--model`.

use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// The environment variable that names another demo model.
const VARIABLE: &str = "INFER_DEMO_MODEL";

/// The file's name.
const FILE: &str = "tolstoy-3m-Q8_0.gguf";

/// Where it is looked for, as `--help` says it.
pub const HELP: &str = "\
Without --model the demo model is used: the file that the environment variable INFER_DEMO_MODEL names, or else \
tolstoy-3m-Q8_0.gguf in the first of these folders that has it: models/ of the current directory; next to the \
program ../models, ../../models (a build in target/release) and ../share/infer/models (an installation); models/ \
of the source tree the program was built from.";

/// The model named on the command line, or the demo model.
pub fn or_demo(model: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    match model {
        Some(path) => Ok(path.clone()),
        None => locate(),
    }
}

fn locate() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let places = places(std::env::current_exe().ok().as_deref());
    if let Some(found) = places.iter().find(|p| p.is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    Err(Failure::Failed(format!(
        "no --model was given and the demo model was not found; looked at {} and the variable {VARIABLE}",
        tried.join(", ")
    )))
}

/// Candidates in the order they are tried.
fn places(program: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("models")];
    if let Some(folder) = program.and_then(Path::parent) {
        folders.extend(["../models", "../../models", "../share/infer/models"].map(|f| folder.join(f)));
    }
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"));
    folders.into_iter().map(|f| f.join(FILE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_directory_comes_first_and_the_source_tree_last() {
        let places = places(Some(Path::new("/usr/bin/infer")));
        assert_eq!(places[0], Path::new("models").join(FILE));
        assert!(places.contains(&Path::new("/usr/bin/../share/infer/models").join(FILE)));
        assert!(places.last().unwrap().starts_with(env!("CARGO_MANIFEST_DIR")));
    }
}
