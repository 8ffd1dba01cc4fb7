//! `infer chat`: a conversation on the terminal, or line by line through pipes.

mod conversation;
mod lines;
mod transcript;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use infer::engine::{Engine, Event, Finish, FinishReason, Poll, Request};
use infer::options::{EngineOptions, LogLevel, ModelOptions, Object, Prompt, RequestOptions};
use serde_json::json;

use crate::demo;
use crate::exit::{FAILED, Failure, OK, Outcome};
use crate::flags::{Flags, Loading, Offer};
use crate::generate;
use crate::interrupt::{Interrupt, Otherwise};
use crate::loading;
use crate::log;
use crate::output::{Lines, Output, Style, printable, styled};
use crate::progress::Progress;
use conversation::{Conversation, Form, Role};
use lines::{Input, LineSource};
use transcript::Transcript;

/// Talk with a model: each line is a message, the answer is streamed.
///
/// The conversation goes through the model's chat template. A model without one gets plain text: the system message,
/// then turns that begin with "User:" and "Assistant:"; the answer ends where the model writes "User:" itself. When
/// the context is full, the oldest turns are no longer shown to the model, which is said; the system message stays.
///
/// On a terminal lines can be edited and called back with the arrow keys. Ctrl-C stops the answer; Ctrl-C twice at the
/// prompt, Ctrl-D or /exit leave. Without a terminal every line of standard input is a message, answers go to standard
/// output, and the exit code is 1 when one of them failed. With --json the talk goes to standard error and
/// the conversation is printed as one object at the end.
#[derive(clap::Args)]
#[command(after_help = help_texts())]
pub struct Args {
    /// GGUF file of the model.
    #[arg(long, short, value_name = "PATH")]
    model: Option<PathBuf>,
    /// A system message that comes first.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// End an answer at this text, which is not part of it; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    #[command(flatten)]
    sampling: Flags<Talking>,
    #[command(flatten)]
    computing: Flags<generate::Computing>,
    #[command(flatten)]
    loading: Flags<Loading>,
}

/// What `/help` prints.
const COMMANDS: &str = "\
/help       this list
/stats      what the engine computes with and what it measured
/reset      forget the conversation; the system message stays
/save FILE  write the conversation to FILE: as JSON when its name ends in .json, else as Markdown
/exit       leave, as Ctrl-D does
A message that begins with a slash is written with two.
";

fn help_texts() -> String {
    format!("Commands:\n{COMMANDS}\n{}", demo::HELP)
}

/// Options of each answer. They differ from those of `generate` in the default of max_tokens.
pub struct Talking;

impl Offer for Talking {
    const OBJECT: Object = Object::Request;
    const OPTIONS: &'static [(&'static str, Option<&'static str>)] = &[
        ("max_tokens", Some("1024")),
        ("temperature", None),
        ("top_k", None),
        ("top_p", None),
        ("min_p", None),
        ("repetition_penalty", None),
        ("repetition_window", None),
        ("seed", None),
        ("deadline_ms", None),
        ("ignore_end_of_generation", None),
        ("render_special", None),
    ];
    const HEADING: &'static str = "Sampling";
}

/// Runs the command.
pub fn run(args: &Args, json: bool) -> Outcome {
    let path = demo::or_demo(args.model.as_ref())?;
    let mut engine_options: EngineOptions = args.computing.options()?;
    engine_options.max_running = 1;
    engine_options.log = Some(log::callback());
    let mut request: RequestOptions = args.sampling.options()?;
    request.stop = args.stop.clone();
    let limit = engine_options.max_prompt_bytes as u64;

    let (model, _) = loading::load(&path, &args.loading.options::<ModelOptions>()?)?;
    model.tokenizer()?;
    let form = Form::of(&model);
    if let Form::Plain(why) = &form {
        log::record(
            LogLevel::Warn,
            "chat",
            &format!("{why}; the conversation is plain text with 'User:' and 'Assistant:'"),
            json!({}),
        );
        request.stop.push(conversation::STOP.to_string());
    }
    let engine = Engine::new(model, engine_options)?;
    let mut lines = LineSource::new(!json, limit)?;
    let interrupt = Interrupt::install(if lines.is_terminal() {
        Otherwise::Stay
    } else {
        Otherwise::Leave
    })?;
    let mut chat = Chat {
        engine,
        form,
        request,
        interrupt,
        screen: match json {
            false => Output::new(),
            // Every line of standard error is a record then.
            true if log::is_json() => Output::nowhere(),
            true => Output::on_stderr(),
        },
        conversation: Conversation::new(args.system.clone()),
        transcript: Transcript::new(path.to_string_lossy().into_owned()),
        last: None,
        failures: 0,
    };
    if lines.is_terminal() {
        chat.say("/help lists commands; Ctrl-D leaves");
    }
    chat.talk(&mut lines)?;
    if json {
        Output::new().json(&chat.transcript.json(&chat.conversation))?;
    }
    // At a terminal the person has seen what failed and went on.
    Ok(if chat.failures > 0 && !lines.is_terminal() {
        FAILED
    } else {
        OK
    })
}

struct Chat {
    engine: Engine,
    form: Form,
    /// What every answer is asked with, besides its prompt.
    request: RequestOptions,
    interrupt: Arc<Interrupt>,
    screen: Output,
    conversation: Conversation,
    transcript: Transcript,
    /// How the last answer ended.
    last: Option<Finish>,
    failures: usize,
}

impl Chat {
    /// Reads lines until somebody leaves.
    fn talk(&mut self, lines: &mut LineSource) -> Result<(), Failure> {
        let mut leaving = false;
        loop {
            self.screen.flush()?;
            match lines.next() {
                Input::End => return Ok(()),
                Input::Interrupted if leaving => return Ok(()),
                Input::Interrupted => {
                    leaving = true;
                    self.say("Ctrl-C again or Ctrl-D leaves");
                    continue;
                }
                Input::Unreadable(why) => self.fail(&why),
                Input::Line(line) => {
                    let line = line.trim();
                    match line.strip_prefix('/') {
                        Some(message) if message.starts_with('/') => self.answer(message)?,
                        Some(command) => {
                            if self.command(command)? {
                                return Ok(());
                            }
                        }
                        None if line.is_empty() => {}
                        None => self.answer(line)?,
                    }
                }
            }
            leaving = false;
        }
    }

    /// A remark of the program's, which is no part of the conversation.
    fn say(&self, remark: &str) {
        let remark = printable(remark, Lines::Escape);
        if log::is_json() {
            log::line("chat", &remark);
        } else {
            log::line("chat", &styled(&format!("({remark})"), Style::Dim));
        }
    }

    fn fail(&mut self, why: &str) {
        self.failures += 1;
        log::record(LogLevel::Error, "chat", why, json!({}));
    }

    /// Runs a command; answers whether it was the last.
    fn command(&mut self, command: &str) -> Result<bool, Failure> {
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("help", "") => self.screen.text(COMMANDS)?,
            ("stats", "") => {
                self.screen.text(&self.engine.summary())?;
                if let Some(finish) = &self.last {
                    self.screen.text(&format!(
                        "last answer: {} prompt tokens, {} generated, {:.1} per second, ended by {}\n",
                        finish.prompt_tokens,
                        finish.generated_tokens,
                        finish.decode_tokens_per_second,
                        finish.reason.name()
                    ))?;
                }
            }
            ("reset", "") => {
                self.conversation.reset();
                self.say("the conversation is forgotten");
            }
            ("exit" | "quit", "") => return Ok(true),
            ("save", "") => self.fail("/save needs the name of a file"),
            ("save", file) => match self.transcript.save(file.as_ref(), &self.conversation) {
                Ok(remark) => self.say(&remark),
                Err(why) => self.fail(&why),
            },
            _ => self.fail(&format!("there is no command '/{command}'; /help lists them")),
        }
        Ok(false)
    }

    /// Adds a message, streams the answer to it and adds that.
    fn answer(&mut self, message: &str) -> Result<(), Failure> {
        self.conversation.push(Role::User, message);
        self.interrupt.begin();
        let answered = self.complete();
        self.interrupt.end();
        let text = match answered {
            Ok(text) => text,
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            Err(Failure::Usage(why) | Failure::Failed(why)) => {
                self.fail(&why);
                String::new()
            }
        };
        // Templates want turns to alternate, so a message without an answer was never said.
        if text.is_empty() {
            self.conversation.take_back();
        } else {
            self.conversation.push(Role::Assistant, &text);
        }
        Ok(())
    }

    /// Streams the answer to the conversation as it is; answers its text.
    fn complete(&mut self) -> Result<String, Failure> {
        let ids = self.prompt()?;
        let mut progress = Progress::new("reading the prompt", ids.len() as u64);
        let read_before = self.engine.stats().prompt_tokens;
        let mut options = self.request.clone();
        options.prompt = Prompt::Ids(ids);
        let request = Arc::new(self.engine.submit(options)?);
        self.interrupt.cancels(&request);
        let mut text = String::new();
        let mut event = Event::default();
        let mut patience = progress.is_enabled().then_some(Duration::from_millis(50));
        let finish = loop {
            match next(&request, patience, &mut event)? {
                Poll::Timeout => {
                    progress.set(self.engine.stats().prompt_tokens.saturating_sub(read_before));
                    continue;
                }
                Poll::End => {
                    return Err(Failure::Failed("the answer ended without saying how".to_string()));
                }
                Poll::Event => {}
            }
            progress.clear();
            patience = None;
            // The space between "Assistant:" and the answer is none of the answer's.
            let new = match text.is_empty() {
                true => event.text.trim_start(),
                false => &event.text,
            };
            text.push_str(new);
            self.screen.generated(new)?;
            self.screen.flush()?;
            if let Some(finish) = event.finish.take() {
                break finish;
            }
        };
        if !text.ends_with('\n') {
            self.screen.text("\n")?;
        }
        self.screen.flush()?;
        self.remark(&finish, text.is_empty());
        let error = finish.error.as_ref().map(|e| e.to_string());
        self.last = Some(finish);
        match error {
            Some(why) => Err(Failure::Failed(why)),
            None => Ok(text.trim_end().to_string()),
        }
    }

    fn remark(&self, finish: &Finish, empty: bool) {
        match finish.reason {
            FinishReason::Cancelled => self.say("stopped"),
            FinishReason::Deadline => self.say("the answer took too long and was cut off; see --deadline-ms"),
            FinishReason::Length => self.say(&format!(
                "the answer was cut off after {} tokens; see --max-tokens and --context-length",
                finish.generated_tokens
            )),
            _ if empty => self.say("the model has nothing to say"),
            _ => {}
        }
    }

    /// The ids of the conversation, without its oldest turns when it leaves too little room for an answer.
    fn prompt(&mut self) -> Result<Vec<u32>, Failure> {
        let context = self.engine.context_length();
        // A quarter of the context is enough to go on talking.
        let room = self.request.max_tokens.min(context / 4);
        let mut dropped = 0;
        let ids = loop {
            let mut options = self.request.clone();
            options.prompt = self.form.prompt(&self.conversation);
            let ids = self.engine.prompt_ids(&options)?;
            if ids.len() + room <= context {
                break ids;
            }
            match self.conversation.drop_oldest() {
                0 if ids.len() < context => break ids,
                0 => {
                    return Err(Failure::Failed(format!(
                        "the message has {} tokens with what belongs to it, but the context holds {context} of message \
                         and answer together",
                        ids.len()
                    )));
                }
                n => dropped += n,
            }
        };
        if dropped > 0 {
            self.say(&format!(
                "the context of {context} tokens is full: the model no longer sees the {dropped} oldest messages"
            ));
        }
        Ok(ids)
    }
}

fn next(request: &Request, patience: Option<Duration>, event: &mut Event) -> Result<Poll, Failure> {
    Ok(request.next(patience, event)?)
}
