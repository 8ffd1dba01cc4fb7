//! A conversation written to a file.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::conversation::{Conversation, Role};

/// Writes conversations with one model.
pub struct Transcript {
    model: String,
    /// Files of this conversation: they may be written again.
    ours: Vec<PathBuf>,
}

impl Transcript {
    /// For conversations with the model of this path.
    pub fn new(model: String) -> Self {
        Self {
            model,
            ours: Vec::new(),
        }
    }

    /// Writes the conversation to a file: as JSON when its name ends in `.json`, else as Markdown. A file that was
    /// there before is not touched. Answers what was done, as a sentence, or what was in the way.
    pub fn save(&mut self, path: &Path, conversation: &Conversation) -> Result<String, String> {
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let (format, text) = match json {
            true => ("JSON", format!("{:#}\n", self.json(conversation))),
            false => ("Markdown", self.markdown(conversation)),
        };
        let again = self.ours.iter().any(|p| p == path);
        let mut options = OpenOptions::new();
        options.write(true);
        if again {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        let written = options
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        match written {
            Ok(()) => {
                if !again {
                    self.ours.push(path.to_path_buf());
                }
                let n = conversation.messages().len();
                Ok(format!("saved {n} messages to {} as {format}", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(format!(
                "{} exists; choose another name for the conversation",
                path.display()
            )),
            Err(e) => Err(format!("cannot save the conversation to {}: {e}", path.display())),
        }
    }

    /// The whole conversation as one object.
    pub fn json(&self, conversation: &Conversation) -> Value {
        let system = conversation
            .system()
            .map(|s| json!({ "role": "system", "content": s }));
        let turns = conversation
            .messages()
            .iter()
            .map(|m| json!({ "role": m.role.name(), "content": m.content }));
        let messages: Vec<Value> = system.into_iter().chain(turns).collect();
        json!({ "model": self.model, "messages": messages })
    }

    fn markdown(&self, conversation: &Conversation) -> String {
        let mut text = format!("# Conversation with {}\n", self.model);
        let system = conversation.system().map(|s| ("System", s));
        let turns = conversation.messages().iter().map(|m| {
            let title = match m.role {
                Role::User => "User",
                Role::Assistant => "Assistant",
            };
            (title, m.content.as_str())
        });
        for (title, content) in system.into_iter().chain(turns) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n## {title}\n\n{content}\n");
        }
        text
    }
}
