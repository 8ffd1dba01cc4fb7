//! What is changed in a template's source before minijinja compiles it.
//!
//! * Line ends become `\n`, as in Jinja.
//! * `{% generation %}`, which marks what training learns from, becomes a tag without effect and of the same
//!   white space control.
//! * Slices with a step, `x[a:b:c]`, become the method call `x.__slice__((a),(b),(c))`, because minijinja 3.0.5
//!   panics on some with a negative step.

/// The source that is compiled instead of `source`.
pub(super) fn prepare(source: &str) -> String {
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
        match statement(tag) {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            "raw" => {
                out.push_str(tag);
                let end = end_of_raw(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => replace_slices(tag, &mut out),
        }
    }
    out.push_str(rest);
    out
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

/// The one word of a statement tag, or "".
fn statement(tag: &str) -> &str {
    tag.strip_prefix("{%")
        .and_then(|t| t.strip_suffix("%}"))
        .map_or("", |t| {
            t.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'))
        })
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
    use super::prepare;

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
        assert_eq!(prepare("{{ 'unfinished"), "{{ 'unfinished");
        assert_eq!(prepare("{% x '\\"), "{% x '\\");
        assert_eq!(prepare("{"), "{");
    }
}
