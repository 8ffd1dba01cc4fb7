//! `docs/c-api.md`: the header as a page, made from its declarations and comments.

use std::fmt::Write as _;

use crate::header::{Header, Item, Kind, Member};

/// Whether an item stands under a heading.
type IsOne = fn(&Kind) -> bool;

/// The headings of what is not a function, which the header declares first.
const TYPES: &[(&str, IsOne)] = &[
    ("Objects", |kind| matches!(kind, Kind::Handle)),
    ("Structs", |kind| matches!(kind, Kind::Struct(_))),
    ("Callbacks", |kind| matches!(kind, Kind::Callback(_))),
    ("Constants", |kind| matches!(kind, Kind::Enum(_) | Kind::Macro(_))),
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
        for item in items.iter().filter(|item| !is_initializer(item)) {
            let _ = writeln!(page, "  - [`{0}`](#{0})", item.name);
        }
    }
    for (heading, items) in &sections {
        let _ = writeln!(page, "\n## {heading}");
        for item in items.iter().filter(|item| !is_initializer(item)) {
            entry(item, header, &mut page);
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
        Kind::Handle => prose(&item.comment, page),
        Kind::Macro(value) => {
            prose(&item.comment, page);
            let _ = writeln!(page, "\nIts value is `{value}`.");
        }
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
        let comment = escape(&member.comment.replace('\n', " ")).replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | `{}` | {comment} |", member.name, member.of);
    }
}

/// Names become code and those of functions links, so that their stars and underscores mean nothing else.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(' ');
        }
        let code = word
            .trim_start_matches(['(', '"'])
            .trim_end_matches(['.', ',', ';', ':', '"']);
        let code = if code.contains('(') {
            code
        } else {
            code.trim_end_matches(')')
        };
        let is_code = code.contains(['_', '*', '<', '[']) && !code.contains('"');
        match word.split_once(code) {
            Some((before, after)) if code.starts_with("infer_") && code.ends_with("()") => {
                let name = &code[..code.len() - 2];
                let _ = write!(out, "{before}[`{code}`](#{name}){after}");
            }
            Some((before, after)) if is_code => {
                let _ = write!(out, "{before}`{code}`{after}");
            }
            _ => out.push_str(word),
        }
    }
    out
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
        assert!(page.contains(&format!("\n### {}\n", item.name)), "{}", item.name);
    }
    let anchors: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## ").or(line.strip_prefix("### ")))
        .map(anchor)
        .collect();
    let mut links = 0;
    for link in page
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- ["))
    {
        let target = link
            .split_once("](#")
            .unwrap()
            .1
            .trim_end_matches(')')
            .to_lowercase();
        assert!(anchors.contains(&target), "{target}");
        links += 1;
    }
    assert!(links > 100, "{links}");
}
