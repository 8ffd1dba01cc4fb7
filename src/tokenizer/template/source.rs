//! What is changed in a template's source before minijinja compiles it.
//!
//! * Line ends become `\n`, as in Jinja.
//! * `{% generation %}`, which marks what training learns from, becomes a tag without effect and of the same
//!   white space control.
//! * Slices with a step, `x[a:b:c]`, become the method call `x.__slice__((a),(b),(c))`, because minijinja 3.0.5
//!   panics on some with a negative step.
//! * What `set` keeps and macros are given is checked by [`super::bounds`].

use super::TemplateError;
use super::bounds::FUNCTION;

/// Operators in one tag: each may nest the syntax tree by one, and the engine walks it recursively.
const MAX_OPERATORS: usize = 500;
/// `elif` tags, which nest as well.
const MAX_ELIFS: usize = 500;

/// The source that is compiled instead of `source`.
pub(super) fn prepare(source: &str) -> Result<String, TemplateError> {
    let mut elifs = 0;
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some((start, close)) = next_tag(rest) {
        out.push_str(&rest[..start]);
        let tag = &rest[start..];
        if close == "#}" {
            let end = tag.find(close).map_or(tag.len(), |at| at + 2);
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let end = tag_end(tag, close);
        let (tag, after) = tag.split_at(end);
        rest = after;
        if operators(tag) > MAX_OPERATORS {
            return Err(TemplateError::Syntax(format!(
                "a tag has more than {MAX_OPERATORS} operators"
            )));
        }
        let code = statement(tag);
        match code.split_ascii_whitespace().next().unwrap_or_default() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            "raw" => {
                out.push_str(tag);
                let end = end_of_raw(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            "set" => replace_slices(&with_check(tag), &mut out),
            "macro" => {
                replace_slices(tag, &mut out);
                check_arguments(tag, &mut out);
            }
            "for" if code.ends_with("recursive") => {
                let message = "recursive loops are not supported";
                return Err(TemplateError::Syntax(message.to_string()));
            }
            "elif" => {
                elifs += 1;
                if elifs > MAX_ELIFS {
                    return Err(TemplateError::Syntax(format!(
                        "there are more than {MAX_ELIFS} elif tags"
                    )));
                }
                replace_slices(tag, &mut out);
            }
            _ => replace_slices(tag, &mut out),
        }
    }
    out.push_str(rest);
    Ok(out)
}
/// Start and closing delimiter of the next tag.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    let mut from = 0;
    while let Some(found) = text[from..].find('{') {
        let start = from + found;
        match text.as_bytes().get(start + 1) {
            Some(b'{') => return Some((start, "}}")),
            Some(b'%') => return Some((start, "%}")),
            Some(b'#') => return Some((start, "#}")),
            _ => from = start + 1,
        }
    }
    None
}

/// Length of the tag at the front of `text`; delimiters in strings do not count.
fn tag_end(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 2;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"') => i = string_end(bytes, i, quote),
            _ if bytes[i..].starts_with(close.as_bytes()) => return i + 2,
            _ => i += 1,
        }
    }
    text.len()
}

/// Index after the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut i = start + 1;
    while i < bytes.len() && bytes[i] != quote {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(bytes.len())
}

/// The code of a statement tag without its delimiters, or "".
fn statement(tag: &str) -> &str {
    tag.strip_prefix("{%")
        .and_then(|t| t.strip_suffix("%}"))
        .map_or("", |t| {
            t.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'))
        })
}

/// Operators and brackets of a tag, outside strings.
fn operators(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut count, mut i) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"') => {
                i = string_end(bytes, i, quote);
                continue;
            }
            b'a'..=b'z' => {
                let end = i + bytes[i..]
                    .iter()
                    .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
                    .count();
                if matches!(&tag[i..end], "not" | "and" | "or" | "if" | "else" | "in" | "is") {
                    count += 1;
                }
                i = end;
                continue;
            }
            byte if b".|~+-*/%<>=!([{".contains(&byte) => count += 1,
            _ => {}
        }
        i += 1;
    }
    count
}

/// Bytes of `text` outside strings and brackets, with their positions.
fn top_level(text: &str) -> Vec<(usize, u8)> {
    let bytes = text.as_bytes();
    let (mut found, mut depth, mut i) = (Vec::new(), 0usize, 0);
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"') => {
                i = string_end(bytes, i, quote);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            byte if depth == 0 => found.push((i, byte)),
            _ => {}
        }
        i += 1;
    }
    found
}

/// `{% set x = y %}` with `y` checked; a block set stays as it is.
fn with_check(tag: &str) -> String {
    let code = statement(tag);
    let equals = top_level(code)
        .into_iter()
        .find(|&(_, byte)| byte == b'=')
        .map(|(at, _)| at);
    match equals {
        Some(at) if !code[at + 1..].trim().is_empty() => {
            let (target, value) = (&code[..at], &code[at + 1..]);
            let inside = if target.contains('.') { ", true" } else { "" };
            tag.replacen(code, &format!("{target}= {FUNCTION}(({value}){inside})"), 1)
        }
        _ => tag.to_string(),
    }
}

/// Adds a tag that checks the arguments of the macro whose tag this is.
fn check_arguments(tag: &str, out: &mut String) {
    let code = statement(tag);
    let (Some(open), Some(close)) = (code.find('('), code.rfind(')')) else {
        return;
    };
    let Some(parameters) = code.get(open + 1..close) else {
        return;
    };
    let mut names = Vec::new();
    let mut start = 0;
    let commas = top_level(parameters)
        .into_iter()
        .filter(|&(_, byte)| byte == b',');
    for (end, _) in commas.chain([(parameters.len(), b',')]) {
        let name = parameters[start..end]
            .split('=')
            .next()
            .unwrap_or_default()
            .trim();
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            names.push(name);
        }
        start = end + 1;
    }
    if names.is_empty() {
        return;
    }
    let checks: Vec<String> = names.iter().map(|name| format!("{FUNCTION}({name})")).collect();
    let end = if tag.ends_with("-%}") { "-%}" } else { "%}" };
    out.push_str(&format!("{{% set __arguments__ = [{}] {end}", checks.join(", ")));
}

/// Start of the tag that ends a raw block.
fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(found) = text[from..].find("{%") {
        let start = from + found;
        let end = start + tag_end(&text[start..], "%}");
        if statement(&text[start..end]) == "endraw" {
            return start;
        }
        from = start + 2;
    }
    text.len()
}

/// What becomes of a bracket or colon of a slice with a step.
#[derive(Clone, Copy)]
enum Part {
    Open,
    Colon,
    Close,
}

/// Copies a tag, with the slices that have a step replaced by method calls.
fn replace_slices(tag: &str, out: &mut String) {
    let mut copied = 0;
    for (at, part) in slice_parts(tag.as_bytes()) {
        out.push_str(&tag[copied..at]);
        out.push_str(match part {
            Part::Open => ".__slice__((",
            Part::Colon => "),(",
            Part::Close => "))",
        });
        copied = at + 1;
    }
    out.push_str(&tag[copied..]);
}

/// Positions of the brackets and colons of slices with a step, ascending.
fn slice_parts(bytes: &[u8]) -> Vec<(usize, Part)> {
    // Open brackets with their position and, for square ones, the colons directly inside.
    let mut open: Vec<(u8, usize, Vec<usize>)> = Vec::new();
    let mut parts = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"') => {
                i = string_end(bytes, i, quote);
                continue;
            }
            bracket @ (b'[' | b'(' | b'{') => open.push((bracket, i, Vec::new())),
            b':' => {
                if let Some((b'[', _, colons)) = open.last_mut() {
                    colons.push(i);
                }
            }
            b']' | b')' | b'}' => {
                if let Some((b'[', start, colons)) = open.pop()
                    && bytes[i] == b']'
                    && let [first, second] = colons[..]
                {
                    parts.extend([
                        (start, Part::Open),
                        (first, Part::Colon),
                        (second, Part::Colon),
                        (i, Part::Close),
                    ]);
                }
            }
            _ => {}
        }
        i += 1;
    }
    parts.sort_unstable_by_key(|(at, _)| *at);
    parts
}

#[cfg(test)]
mod tests {
    fn prepare(source: &str) -> String {
        super::prepare(source).unwrap()
    }

    #[test]
    fn only_what_is_code_is_changed() {
        let same =
            "a [::-1] {# x[::-1] #}{{ 'x[::-1] }}' }}{% raw %}{% generation %}{{ x[::-1] }}{% endraw %}";
        assert_eq!(prepare(same), same);
        assert_eq!(
            prepare("{{ x[ ::-1 ][0] }}\r\n"),
            "{{ x.__slice__(( ),(),(-1 ))[0] }}\n"
        );
        assert_eq!(
            prepare("{{ x[f({'a': 1}[1:2]):y[::2]:z] ~ ']' }}"),
            "{{ x.__slice__((f({'a': 1}[1:2])),(y.__slice__((),(),(2))),(z)) ~ ']' }}"
        );
        assert_eq!(
            prepare("{%- generation -%}x{% endgeneration %}"),
            "{%- if true -%}x{% endif %}"
        );
        assert_eq!(
            prepare("{% set x, y = a == 1, [2] -%}{% set z %}"),
            "{% set x, y = __bounded__(( a == 1, [2])) -%}{% set z %}"
        );
        assert_eq!(
            prepare("{%- macro f(a, b=[1, 2], c='x,') -%}"),
            "{%- macro f(a, b=[1, 2], c='x,') -%}{% set __arguments__ = [__bounded__(a), __bounded__(b), __bounded__(c)] -%}"
        );
        assert_eq!(prepare("{{ 'unfinished"), "{{ 'unfinished");
        assert_eq!(prepare("{% x '\\"), "{% x '\\");
        assert_eq!(prepare("{"), "{");
    }
}
