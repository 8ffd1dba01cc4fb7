//! `infer completions` and `infer man`: what a shell and `man` want to know of the command line.

use std::path::PathBuf;

use clap_complete::Shell;
use serde_json::json;

use crate::exit::{Failure, OK, Outcome};
use crate::output::Output;

/// Print a script that completes the command line in a shell.
///
/// For bash: infer completions bash > ~/.local/share/bash-completion/completions/infer. For zsh the file is called
/// _infer and lies in a folder of $fpath; for fish it is ~/.config/fish/completions/infer.fish.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Print the manual page, or write the pages of all commands.
#[derive(clap::Args)]
pub struct ManArgs {
    /// Write infer.1, infer-generate.1 and so on into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Runs `infer completions`.
pub fn completions(args: &CompletionsArgs, json: bool) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "infer", &mut script);
    let script = String::from_utf8_lossy(&script);
    let mut out = Output::new();
    if json {
        out.json(&json!({ "shell": args.shell.to_string(), "script": script }))?;
    } else {
        out.text(&script)?;
    }
    out.flush()?;
    Ok(OK)
}

/// Runs `infer man`.
pub fn man(args: &ManArgs, json: bool) -> Outcome {
    let mut out = Output::new();
    if let Some(folder) = &args.out {
        let action = format!("write manual pages into {}", folder.display());
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(crate::command(), folder))
            .map_err(|e| Failure::io(&action, &e))?;
        if json {
            out.json(&json!({ "folder": folder.to_string_lossy() }))?;
        }
        return Ok(OK);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(crate::command())
        .render(&mut page)
        .map_err(|e| Failure::io("write the manual page", &e))?;
    let page = String::from_utf8_lossy(&page);
    if json {
        out.json(&json!({ "page": page }))?;
    } else {
        out.text(&page)?;
    }
    out.flush()?;
    Ok(OK)
}
