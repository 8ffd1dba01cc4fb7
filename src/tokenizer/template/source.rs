//! What is changed in a template's source before minijinja compiles it.
//!
//! * Line ends become `\n`, as in Jinja.
//! * `{% generation %}`, which marks what training learns from, becomes a tag without effect and of the same
//!   white space control.
//! * `[::-1]` becomes a method call, because minijinja 3.0.5 panics when it reverses an empty list.

const REVERSED: &str = ".__reversed__()";

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
            _ => reverse(tag, &mut out),
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

/// Copies a tag, with the slices that reverse replaced.
fn reverse(tag: &str, out: &mut String) {
    let bytes = tag.as_bytes();
    let (mut copied, mut i) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"') => i = string_end(bytes, i, quote),
            b'[' => match slice_end(bytes, i) {
                Some(end) => {
                    out.push_str(&tag[copied..i]);
                    out.push_str(REVERSED);
                    (copied, i) = (end, end);
                }
                None => i += 1,
            },
            _ => i += 1,
        }
    }
    out.push_str(&tag[copied..]);
}

/// Index after `[::-1]`, if that is what begins at `start`.
fn slice_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut i = start;
    for wanted in *b"[::-1]" {
        while wanted != b'[' && bytes.get(i).is_some_and(u8::is_ascii_whitespace) {
            i += 1;
        }
        if bytes.get(i) != Some(&wanted) {
            return None;
        }
        i += 1;
    }
    Some(i)
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn only_what_is_code_is_changed() {
        let same =
            "a [::-1] {# x[::-1] #}{{ 'x[::-1] }}' }}{% raw %}{% generation %}{{ x[::-1] }}{% endraw %}";
        assert_eq!(prepare(same), same);
        assert_eq!(prepare("{{ x[ ::-1 ][0] }}\r\n"), "{{ x.__reversed__()[0] }}\n");
        assert_eq!(
            prepare("{%- generation -%}x{% endgeneration %}"),
            "{%- if true -%}x{% endif %}"
        );
        assert_eq!(prepare("{{ 'unfinished"), "{{ 'unfinished");
        assert_eq!(prepare("{% x '\\"), "{% x '\\");
        assert_eq!(prepare("{"), "{");
    }
}
