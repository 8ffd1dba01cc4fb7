//! `docs/c-api.md`: the header as a page, made from its declarations and comments.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::header::{Header, Item, Kind, Member};

/// Whether an item stands under a heading.
type IsOne = fn(&Kind) -> bool;

/// The headings of what is not a function, which the header declares first.
const TYPES: &[(&str, IsOne)] = &[
    ("Objects", |kind| matches!(kind, Kind::Handle)),
    ("Structs", |kind| matches!(kind, Kind::Struct(_))),
    ("Callbacks", |kind| matches!(kind, Kind::Callback(_))),
    ("Constants", |kind| matches!(kind, Kind::Enum(_))),
];

fn page(header: &Header) -> String {
    let mut sections: Vec<(&str, Vec<&Item>)> = Vec::new();
    for (item, _) in header.functions() {
        match sections.last_mut() {
            Some((heading, items)) if *heading == item.heading => items.push(item),
            _ => sections.push((item.heading.as_str(), vec![item])),
        }
    }
    for (heading, is_one) in TYPES {
        sections.push((
            heading,
            header.items.iter().filter(|item| is_one(&item.kind)).collect(),
        ));
    }

    let mut page =
        String::from("# The C interface\n\n<!-- Made from include/infer.h by tests/header_docs. -->\n\n");
    conventions(&header.introduction, &mut page);
    page.push_str("\n## Contents\n\n");
    for (heading, items) in &sections {
        let _ = writeln!(page, "- [{heading}](#{})", anchor(heading));
        for item in items {
            let _ = writeln!(page, "  - [`{0}`](#{0})", item.name);
        }
    }
    page.push_str("- [Macros](#macros)\n");
    for (heading, items) in &sections {
        let _ = writeln!(page, "\n## {heading}");
        for item in items {
            entry(item, header, &mut page);
        }
    }
    page.push_str("\n## Macros\n\n| Macro | Value | Meaning |\n|---|---|---|\n");
    for item in header.items.iter().filter(|item| !is_initializer(item)) {
        if let Kind::Macro(value) = &item.kind {
            row(&item.name, value, &item.comment, &mut page);
        }
    }
    page
}

/// Initializers stand with their structs.
fn is_initializer(item: &Item) -> bool {
    item.name.ends_with("_INIT")
}

fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-").replace(':', "")
}

/// The comment at the top: paragraphs, a program that is indented, and one point per convention.
fn conventions(introduction: &str, page: &mut String) {
    for line in introduction.lines() {
        if let Some(rest) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) {
            let _ = writeln!(page, "  {}", escape(rest));
        } else if line == "Conventions" {
            page.push_str("## Conventions\n");
        } else if line.starts_with(' ') || line.is_empty() {
            let _ = writeln!(page, "{line}");
        } else if page.contains("## Conventions") {
            // Most begin with what they are about.
            let _ = match line.split_once(". ").filter(|(subject, _)| subject.len() < 12) {
                Some((subject, rest)) => writeln!(page, "- **{subject}.** {}", escape(rest)),
                None => writeln!(page, "- {}", escape(line)),
            };
        } else {
            let _ = writeln!(page, "{}", escape(line));
        }
    }
}

fn entry(item: &Item, header: &Header, page: &mut String) {
    let _ = writeln!(page, "\n### {}\n", item.name);
    match &item.kind {
        Kind::Function(_) | Kind::Callback(_) => {
            let _ = writeln!(page, "```c\n{}\n```\n", item.code);
            prose(&item.comment, page);
        }
        Kind::Handle | Kind::Macro(_) => prose(&item.comment, page),
        Kind::Struct(fields) => {
            prose(&item.comment, page);
            let initializer = header.initializers().find(|(_, of)| *of == item.name);
            if let Some((name, _)) = initializer.filter(|(name, _)| !item.comment.contains(name)) {
                let _ = writeln!(page, "\nInitialize it with `{name}`.");
            }
            table(["Field", "Type"], fields, page);
        }
        Kind::Enum(constants) => {
            prose(&item.comment, page);
            let _ = writeln!(page, "\nIts type is `{}`.", item.code.split(' ').nth(1).unwrap());
            table(["Constant", "Value"], constants, page);
        }
    }
}

/// A comment's paragraphs; lines with a label become points.
fn prose(comment: &str, page: &mut String) {
    let mut points = false;
    for line in comment.lines() {
        let label = ["Errors:", "Threads:"]
            .into_iter()
            .find(|label| line.starts_with(label));
        if let Some(label) = label {
            let _ = writeln!(page, "- **{label}**{}", escape(&line[label.len()..]));
            points = true;
        } else if points && !line.is_empty() {
            let _ = writeln!(page, "  {}", escape(line));
        } else {
            points = false;
            let _ = writeln!(page, "{}", escape(line));
        }
    }
}

fn table(heads: [&str; 2], members: &[Member], page: &mut String) {
    let _ = writeln!(page, "\n| {} | {} | Meaning |\n|---|---|---|", heads[0], heads[1]);
    for member in members {
        row(&member.name, &member.of, &member.comment, page);
    }
}

fn row(name: &str, of: &str, comment: &str, page: &mut String) {
    let comment = escape(&comment.replace('\n', " ")).replace('|', "\\|");
    let _ = writeln!(page, "| `{name}` | `{of}` | {comment} |");
}

/// Names and calls become code, and names of functions links, so that their stars and underscores mean nothing else.
fn escape(text: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let stars = rest.len() - rest.trim_start_matches('*').len();
        let name = name_at(&rest[stars..]);
        if name.is_empty() {
            let width = stars.max(first.len_utf8());
            out.push_str(&rest[..width]);
            rest = &rest[width..];
            continue;
        }
        let before = &rest[..stars];
        rest = &rest[stars..];
        let call = &rest[..name.len() + bracketed(&rest[name.len()..])];
        let is_code = call.contains('_') || call != name || !before.is_empty();
        let _ = match call.strip_suffix("()").filter(|name| name.starts_with("infer_")) {
            Some(name) if name.chars().all(is_name) => write!(out, "[`{call}`](#{name})"),
            _ if is_code => write!(out, "`{before}{call}`"),
            _ => write!(out, "{name}"),
        };
        rest = &rest[call.len()..];
    }
    out
}

/// The name that a text begins with, which may have three points for what differs.
fn name_at(text: &str) -> &str {
    let bytes = text.as_bytes();
    let is_name = |i: usize| {
        let next = bytes.get(i + 1);
        match bytes.get(i) {
            Some(b'.') => i > 0 && matches!(next, Some(b'.' | b'_')),
            Some(c) => c.is_ascii_alphanumeric() || *c == b'_',
            None => false,
        }
    };
    let end = (0..).find(|i| !is_name(*i)).unwrap();
    &text[..end]
}

/// The length of the arguments or the index that a text begins with.
fn bracketed(text: &str) -> usize {
    if !text.starts_with(['(', '[']) {
        return 0;
    }
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
        if depth == 0 {
            return i + 1;
        }
    }
    0
}

#[test]
fn names_become_code_and_functions_links() {
    for (text, expected) in [
        (
            "Plain words, 12 of them (some here).",
            "Plain words, 12 of them (some here).",
        ),
        (
            "See infer_a_b(), or infer_a_b.",
            "See [`infer_a_b()`](#infer_a_b), or `infer_a_b`.",
        ),
        (
            "infer_x_check(INFER_Y, &error) first",
            "`infer_x_check(INFER_Y, &error)` first",
        ),
        (
            "infer_..._free. infer_..._set() too",
            "`infer_..._free`. `infer_..._set()` too",
        ),
        ("Writes *n = 0, **error", "Writes `*n` = 0, `**error`"),
        ("out[i] = exp(x[i] - max) * 2", "`out[i]` = `exp(x[i] - max)` * 2"),
        ("übrig _", "übrig `_`"),
    ] {
        assert_eq!(escape(text), expected);
    }
}

#[test]
fn the_reference_is_made_from_the_header() {
    crate::is_up_to_date("docs/c-api.md", &page(&Header::generated()));
}

#[test]
fn the_reference_names_everything_and_its_links_lead_somewhere() {
    let header = Header::generated();
    let page = page(&header);
    for item in header.items.iter().filter(|item| !is_initializer(item)) {
        let entry = match item.kind {
            Kind::Macro(_) => format!("\n| `{}` |", item.name),
            _ => format!("\n### {}\n", item.name),
        };
        assert!(page.contains(&entry), "{}", item.name);
    }
    let anchors: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## ").or(line.strip_prefix("### ")))
        .map(anchor)
        .collect();
    let different: BTreeSet<&String> = anchors.iter().collect();
    assert_eq!(
        different.len(),
        anchors.len(),
        "two headings have the same anchor"
    );
    let mut links = 0;
    for link in page.split("](#").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(anchors.iter().any(|anchor| anchor == target), "{target}");
        links += 1;
    }
    assert!(links > 100, "{links}");
}
