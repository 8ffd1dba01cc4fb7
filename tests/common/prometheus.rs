//! A strict reader of Prometheus' text format: what it lets pass, every scraper understands.

use std::collections::BTreeMap;

/// What a text says: the value of each series, written as in the text, and the type of each family.
#[derive(Debug, Default)]
pub struct Metrics {
    pub values: BTreeMap<String, f64>,
    pub types: BTreeMap<String, String>,
}

/// A family in the making.
struct Family {
    name: String,
    kind: String,
    /// `le` and value of each bucket.
    buckets: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
    series: usize,
}

impl Metrics {
    /// Reads a text of version 0.0.4, in which a family is a HELP line, a TYPE line and its series, in this order.
    ///
    /// # Errors
    /// The first line that breaks a rule of the format or of its conventions for names and units.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        let (mut help, mut family): (Option<String>, Option<Family>) = (None, None);
        if !text.ends_with('\n') {
            return Err("the text does not end with a line feed".to_string());
        }
        for line in text.lines() {
            let wrong = |why: &str| Err(format!("{why}: {line}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                this.close(family.take())?;
                let (name, doc) = rest.split_once(' ').unwrap_or((rest, ""));
                if help.is_some() || doc.trim() != doc || doc.is_empty() {
                    return wrong("a HELP without a text, or without a TYPE");
                }
                if !is_name(name) || !escaped(doc, "\\n") {
                    return wrong("a wrong name, or an escape that is none");
                }
                help = Some(name.to_string());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else {
                    return wrong("a TYPE without a type");
                };
                if help.take().as_deref() != Some(name) {
                    return wrong("a TYPE that does not follow its HELP");
                }
                if !["counter", "gauge", "histogram"].contains(&kind) {
                    return wrong("an unexpected type");
                }
                if (kind == "counter") != name.ends_with("_total") {
                    return wrong("counters end in _total, nothing else does");
                }
                let words: Vec<&str> = name.split('_').collect();
                let units = [
                    "ns",
                    "ms",
                    "us",
                    "milliseconds",
                    "nanoseconds",
                    "kb",
                    "mb",
                    "percent",
                ];
                if words.iter().any(|w| units.contains(w)) {
                    return wrong("a unit that is none of the base units");
                }
                if this.types.insert(name.to_string(), kind.to_string()).is_some() {
                    return wrong("a second family of the name");
                }
                family = Some(Family {
                    name: name.to_string(),
                    kind: kind.to_string(),
                    buckets: Vec::new(),
                    sum: None,
                    count: None,
                    series: 0,
                });
            } else {
                let Some(family) = family.as_mut() else {
                    return wrong("a series without HELP and TYPE");
                };
                this.series(family, line)?;
            }
        }
        if help.is_some() {
            return Err("a HELP at the end".to_string());
        }
        this.close(family)?;
        Ok(this)
    }

    fn series(&mut self, family: &mut Family, line: &str) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        let Some((series, value)) = line.rsplit_once(' ') else {
            return wrong("neither a comment nor a series");
        };
        let Ok(value) = value.parse::<f64>() else {
            return wrong("a value that is no number");
        };
        if value < 0.0 || !value.is_finite() {
            return wrong("a value that no count and no time has");
        }
        let (name, labels) = match series.split_once('{') {
            None => (series, Vec::new()),
            Some((name, rest)) => match rest.strip_suffix('}').and_then(labels) {
                Some(labels) => (name, labels),
                None => return wrong("labels that are not in quotes, or not escaped"),
            },
        };
        if self.values.insert(series.to_string(), value).is_some() {
            return wrong("a series that is there already");
        }
        family.series += 1;
        let part = name.strip_prefix(family.name.as_str());
        match (family.kind.as_str(), part) {
            ("histogram", Some("_bucket")) => {
                let [(label, le)] = labels.as_slice() else {
                    return wrong("a bucket has the label le alone");
                };
                let le = match le.as_str() {
                    "+Inf" => f64::INFINITY,
                    number => number.parse().unwrap_or(f64::NAN),
                };
                if label != "le" || le.is_nan() {
                    return wrong("a bucket without a bound");
                }
                family.buckets.push((le, value));
            }
            ("histogram", Some("_sum")) if labels.is_empty() => family.sum = Some(value),
            ("histogram", Some("_count")) if labels.is_empty() => family.count = Some(value),
            ("counter" | "gauge", Some("")) if labels.iter().all(|(label, _)| label != "le") => {}
            _ => return wrong("a series of another family"),
        }
        Ok(())
    }

    fn close(&self, family: Option<Family>) -> Result<(), String> {
        let Some(f) = family else {
            return Ok(());
        };
        let wrong = |why: &str| Err(format!("{}: {why}", f.name));
        if f.series == 0 {
            return wrong("a family without series");
        }
        if f.kind != "histogram" {
            return Ok(());
        }
        if !f.buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            return wrong("buckets whose bounds or counts do not rise");
        }
        let last = f.buckets.last().copied();
        if last.is_none_or(|(le, _)| le != f64::INFINITY) || f.count != last.map(|(_, n)| n) {
            return wrong("the last bucket is not +Inf, or not the count");
        }
        if f.sum.is_none() {
            return wrong("no sum");
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether every backslash is followed by itself or one of these letters.
fn escaped(text: &str, letters: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && !chars.next().is_some_and(|next| letters.contains(next)) {
            return false;
        }
    }
    true
}

/// Reads `a="x",b="y"`.
fn labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"")?;
        let mut end = None;
        let mut quoted = false;
        for (i, c) in value.char_indices() {
            match c {
                _ if quoted => quoted = false,
                '\\' => quoted = true,
                '"' => {
                    end = Some(i);
                    break;
                }
                _ => {}
            }
        }
        let (value, after) = (&value[..end?], &value[end? + 1..]);
        let twice = found.iter().any(|(other, _)| other == name);
        if !is_name(name) || name.contains(':') || twice || !escaped(value, "\\n\"") {
            return None;
        }
        found.push((name.to_string(), value.to_string()));
        rest = match after.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            None if after.is_empty() => "",
            _ => return None,
        };
    }
    Some(found)
}
