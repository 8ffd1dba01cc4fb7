//! What was said, how much of it the model still sees, and how it becomes a prompt.

use infer::model::Model;
use infer::options::Prompt;
use serde_json::{Value, json};

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

/// Turns in order.
#[derive(Debug, Default)]
pub struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    /// The model sees the turns from here on.
    first: usize,
}

impl Conversation {
    /// Nothing said yet.
    pub fn new(system: Option<String>) -> Self {
        Self {
            system,
            ..Self::default()
        }
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Everything said, also what the model no longer sees.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a turn.
    pub fn push(&mut self, role: Role, content: &str) {
        self.messages.push(Message {
            role,
            content: content.to_string(),
        });
    }

    /// Removes the last turn.
    pub fn take_back(&mut self) {
        self.messages.pop();
        self.first = self.first.min(self.messages.len());
    }

    /// Forgets all turns.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.first = 0;
    }

    /// Hides the oldest turns up to the next message of the user, so that what is left begins with one; the last
    /// message always stays. Answers how many were hidden.
    pub fn drop_oldest(&mut self) -> usize {
        let later = self.messages.iter().enumerate().skip(self.first + 1);
        let next = later
            .map(|(i, m)| (i, m.role))
            .find(|(_, role)| *role == Role::User);
        match next {
            None => 0,
            Some((i, _)) => i - std::mem::replace(&mut self.first, i),
        }
    }

    fn visible(&self) -> &[Message] {
        &self.messages[self.first..]
    }

    /// What the model sees, as templates take it.
    pub fn visible_json(&self) -> Value {
        let system = self
            .system
            .iter()
            .map(|s| json!({ "role": "system", "content": s }));
        let turns = self
            .visible()
            .iter()
            .map(|m| json!({ "role": m.role.name(), "content": m.content }));
        Value::Array(system.chain(turns).collect())
    }
}

/// Ends an answer of a model that goes on with the next message itself.
pub const STOP: &str = "\nUser:";

/// How a conversation becomes a prompt.
#[derive(Debug)]
pub enum Form {
    /// By the model's chat template.
    Template,
    /// As plain text, and why.
    Plain(String),
}

impl Form {
    /// The template when the model has one that works.
    pub fn of(model: &Model) -> Self {
        if !model.has_chat_template() {
            return Form::Plain("the model has no chat template".to_string());
        }
        let probe = json!([{ "role": Role::User.name(), "content": "?" }]);
        match model.apply_chat_template(&probe, true) {
            Ok(_) => Form::Template,
            Err(e) => Form::Plain(format!("the model's chat template does not work: {e}")),
        }
    }

    /// The prompt for the next answer.
    pub fn prompt(&self, conversation: &Conversation) -> Prompt {
        match self {
            Form::Template => Prompt::Messages(conversation.visible_json()),
            Form::Plain(_) => Prompt::Text(plain(conversation)),
        }
    }
}

fn plain(conversation: &Conversation) -> String {
    let mut text = String::new();
    if let Some(system) = &conversation.system {
        text.push_str(system);
        text.push_str("\n\n");
    }
    for message in conversation.visible() {
        text.push_str(match message.role {
            Role::User => "User: ",
            Role::Assistant => "Assistant: ",
        });
        text.push_str(&message.content);
        text.push('\n');
    }
    text.push_str("Assistant:");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Conversation {
        let mut talk = Conversation::new(Some("Be brief.".to_string()));
        for (role, text) in [
            (Role::User, "one"),
            (Role::Assistant, "1"),
            (Role::User, "two"),
            (Role::Assistant, "2"),
            (Role::User, "three"),
        ] {
            talk.push(role, text);
        }
        talk
    }

    #[test]
    fn plain_turns_are_named_lines_that_end_with_the_answer_to_come() {
        assert_eq!(
            plain(&talk()),
            "Be brief.\n\nUser: one\nAssistant: 1\nUser: two\nAssistant: 2\nUser: three\nAssistant:"
        );
    }

    #[test]
    fn whole_turns_are_dropped_and_the_system_message_and_the_last_one_stay() {
        let mut talk = talk();
        assert_eq!(talk.drop_oldest(), 2);
        assert_eq!(
            talk.visible_json(),
            json!([
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "two" },
                { "role": "assistant", "content": "2" },
                { "role": "user", "content": "three" },
            ])
        );
        assert_eq!((talk.drop_oldest(), talk.drop_oldest()), (2, 0));
        assert_eq!(plain(&talk), "Be brief.\n\nUser: three\nAssistant:");
        assert_eq!(talk.messages().len(), 5);
    }

    #[test]
    fn taking_back_and_reset_leave_a_conversation_that_goes_on() {
        let mut talk = talk();
        while talk.drop_oldest() > 0 {}
        talk.take_back();
        talk.push(Role::User, "four");
        assert_eq!(plain(&talk), "Be brief.\n\nUser: four\nAssistant:");
        talk.reset();
        talk.push(Role::User, "five");
        assert_eq!(plain(&talk), "Be brief.\n\nUser: five\nAssistant:");
        assert_eq!(talk.drop_oldest(), 0);
    }
}
