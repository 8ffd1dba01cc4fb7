//! Reads `include/infer.h`: what it declares, in its order, each with its comment.
//!
//! This is no C parser: it knows the shape that cbindgen and `build.rs` give the header, and panics on any other.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "test code")]

/// The header that the sources give.
pub const GENERATED: &str = include_str!(concat!(env!("OUT_DIR"), "/infer.h"));

/// A header.
pub struct Header {
    /// The comment at its top, which states the conventions.
    pub introduction: String,
    pub items: Vec<Item>,
}

/// One declaration.
pub struct Item {
    /// The heading it stands under; empty before the first.
    pub heading: String,
    pub name: String,
    /// The comment's text, without its stars; empty when there is none.
    pub comment: String,
    /// The declaration as it is written.
    pub code: String,
    pub kind: Kind,
}

pub enum Kind {
    /// Its value.
    Macro(String),
    /// A name for an integer type; its constants, with their values.
    Enum(Vec<Member>),
    /// A type of which only pointers are known.
    Handle,
    /// Its fields, with their types.
    Struct(Vec<Member>),
    Callback(Signature),
    Function(Signature),
}

/// A constant and its value, or a field or parameter and its type.
pub struct Member {
    pub name: String,
    pub of: String,
    pub comment: String,
}

pub struct Signature {
    pub result: String,
    pub parameters: Vec<Member>,
}

impl Header {
    /// The header that the sources give, to which the committed one is equal.
    pub fn generated() -> Self {
        Self::parse(GENERATED)
    }

    pub fn parse(text: &str) -> Self {
        let mut header = Header {
            introduction: String::new(),
            items: Vec::new(),
        };
        let mut lines = text.lines();
        let (mut heading, mut comment) = (String::new(), String::new());
        while let Some(line) = lines.next() {
            if line.is_empty() {
                // A comment speaks of what follows without a gap.
                comment.clear();
            } else if line.starts_with("/*") {
                comment = read_comment(line, &mut lines);
                if header.introduction.is_empty() {
                    header.introduction = std::mem::take(&mut comment);
                } else if let Some(title) = comment.strip_prefix("---- ") {
                    heading = title.trim_end_matches(" ----").to_string();
                }
            } else if line == "enum {" {
                let typedef = header.items.last_mut().unwrap();
                typedef.kind = Kind::Enum(read_members(&mut lines, "};", constant));
            } else if line == "typedef struct {" {
                let mut end = String::new();
                let fields = read_members(
                    lines.by_ref().inspect(|line| end = (*line).to_string()),
                    "} ",
                    typed,
                );
                let name = end.strip_prefix("} ").and_then(|l| l.strip_suffix(';')).unwrap();
                header.items.push(Item {
                    heading: heading.clone(),
                    name: name.to_string(),
                    comment: comment.clone(),
                    code: name.to_string(),
                    kind: Kind::Struct(fields),
                });
            } else if line != "#define INFER_H"
                && (line.starts_with("#define ") || line.starts_with(|c: char| c.is_ascii_lowercase()))
                && line != "extern \"C\" {"
            {
                let mut code = line.to_string();
                while !line.starts_with('#') && !code.ends_with(';') {
                    code.push('\n');
                    code.push_str(lines.next().expect("a declaration ends with a semicolon"));
                }
                let (name, kind) = declaration(&code);
                header.items.push(Item {
                    heading: heading.clone(),
                    name,
                    comment: comment.clone(),
                    code,
                    kind,
                });
            }
        }
        header
    }

    /// The functions, with their signatures.
    pub fn functions(&self) -> impl Iterator<Item = (&Item, &Signature)> {
        self.items.iter().filter_map(|item| match &item.kind {
            Kind::Function(signature) => Some((item, signature)),
            _ => None,
        })
    }

    /// The structs, with their fields.
    pub fn structs(&self) -> impl Iterator<Item = (&Item, &[Member])> {
        self.items.iter().filter_map(|item| match &item.kind {
            Kind::Struct(fields) => Some((item, fields.as_slice())),
            _ => None,
        })
    }

    /// The macros that initialize a struct, with its name.
    pub fn initializers(&self) -> impl Iterator<Item = (&str, String)> {
        self.items.iter().filter_map(|item| {
            let of = item.name.strip_suffix("_INIT")?.to_lowercase();
            Some((item.name.as_str(), of))
        })
    }
}

/// The text of a comment whose first line is `line`.
fn read_comment<'a>(line: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut text = line.trim().strip_prefix("/*").unwrap().trim_start().to_string();
    while !text.ends_with("*/") {
        let line = lines.next().expect("a comment ends");
        if !text.is_empty() {
            text.push('\n');
        }
        let line = line.trim_start();
        text.push_str(
            line.strip_prefix("* ")
                .unwrap_or(if line == "*" { "" } else { line }),
        );
    }
    text.truncate(text.len() - 2);
    text.trim_end().to_string()
}

/// Reads the lines inside braces until one that begins with `end`.
fn read_members<'a>(
    mut lines: impl Iterator<Item = &'a str>,
    end: &str,
    member: fn(&str) -> (String, String),
) -> Vec<Member> {
    let (mut members, mut comment) = (Vec::new(), String::new());
    while let Some(line) = lines.next() {
        if line.starts_with(end) {
            break;
        }
        if line.trim_start().starts_with("/*") {
            comment = read_comment(line, &mut lines);
        } else {
            let (name, of) = member(line.trim().trim_end_matches([',', ';']));
            members.push(Member {
                name,
                of,
                comment: std::mem::take(&mut comment),
            });
        }
    }
    members
}

/// Splits `NAME = value`.
fn constant(code: &str) -> (String, String) {
    let (name, value) = code.split_once(" = ").expect("every constant has its value");
    (name.to_string(), value.to_string())
}

/// Splits `type name` and `type name[length]`.
fn typed(code: &str) -> (String, String) {
    let (code, length) = code.split_at(code.find('[').unwrap_or(code.len()));
    let at = code.rfind([' ', '*']).unwrap() + 1;
    let of = format!("{}{length}", code[..at].trim_end());
    (code[at..].to_string(), of)
}

fn declaration(code: &str) -> (String, Kind) {
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(code) = code.strip_prefix("#define ") {
        let (name, value) = code.split_once(' ').unwrap();
        return (name.to_string(), Kind::Macro(value.to_string()));
    }
    let code = code.trim_end_matches(';');
    if let Some(code) = code.strip_prefix("typedef ") {
        if let Some((result, rest)) = code.split_once(" (*") {
            let (name, parameters) = rest.split_once(")(").unwrap();
            return (name.to_string(), Kind::Callback(signature(result, parameters)));
        }
        let (name, of) = typed(code);
        let kind = if of.starts_with("struct ") {
            Kind::Handle
        } else {
            Kind::Enum(Vec::new())
        };
        return (name, kind);
    }
    let (before, parameters) = code.split_once('(').expect("a function");
    let (name, result) = typed(before);
    (name, Kind::Function(signature(&result, parameters)))
}

/// `parameters` comes without the opening parenthesis.
fn signature(result: &str, parameters: &str) -> Signature {
    let parameters = parameters.strip_suffix(')').unwrap();
    let parameters = if parameters == "void" { "" } else { parameters };
    Signature {
        result: result.to_string(),
        parameters: parameters
            .split(", ")
            .filter(|p| !p.is_empty())
            .map(|p| {
                let (name, of) = typed(p);
                let comment = String::new();
                Member { name, of, comment }
            })
            .collect(),
    }
}
