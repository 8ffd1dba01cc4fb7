//! What is compared: everything off, each feature alone, everything on, everything on but one.
//!
//! A feature is an option of the engine with a value that does without it.

use infer::options::{EngineOptions, Object, OptionSet, find};

use crate::exit::Failure;

/// Options with their value when the feature is off, and the one it takes when on if that is not the engine's own.
const FEATURES: &[(&str, &str, Option<&str>)] = &[
    ("cpu_level", "scalar", None),
    ("threads", "1", None),
    ("batching", "false", None),
    ("prefill_chunk", "1", None),
    ("flash_attention", "false", None),
    ("kv_type", "f32", None),
    ("prefix_cache", "false", None),
    ("prefill_budget", "0", None),
    ("policy", "fcfs", Some("cached_prefix")),
    ("speculation", "off", Some("ngram")),
];

/// Options whose values decide the results.
const DECIDES_RESULTS: &[&str] = &["cpu_level", "flash_attention", "kv_type"];

/// A feature of this comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// The option.
    pub name: &'static str,
    pub off: String,
    pub on: String,
}

/// How a configuration came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Off,
    /// One feature alone.
    Alone,
    On,
    /// Everything on but one.
    Without,
    /// Everything on, and one with another value.
    Instead,
}

impl Kind {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Off => "off",
            Kind::Alone => "alone",
            Kind::On => "on",
            Kind::Without => "without",
            Kind::Instead => "instead",
        }
    }
}

/// A value for each feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    pub name: String,
    pub kind: Kind,
    pub settings: Vec<(&'static str, String)>,
}

impl Configuration {
    fn value(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The options of an engine of this configuration.
    ///
    /// # Errors
    /// A value that the table refuses.
    pub fn apply(&self, base: &EngineOptions) -> Result<EngineOptions, Failure> {
        let mut options = base.clone();
        for (name, value) in &self.settings {
            options.set(name, value)?;
        }
        Ok(options)
    }

    /// Whether the same requests have to get the same ids from both.
    pub fn has_results_of(&self, other: &Configuration) -> bool {
        DECIDES_RESULTS
            .iter()
            .all(|name| self.value(name) == other.value(name))
    }
}

/// The features of this version whose value when on, as `on` tells it, differs from that when off; only those in `names`
/// if that is not empty.
///
/// # Errors
/// A name that is no feature.
pub fn features(names: &[String], on: impl Fn(&str) -> Option<String>) -> Result<Vec<Feature>, Failure> {
    let exists = |(name, off, on): &&(&str, &str, Option<&str>)| {
        let takes = |value: &str| find(Object::Engine, name).is_ok_and(|spec| spec.parse(value).is_ok());
        takes(off) && on.is_none_or(takes)
    };
    let known: Vec<_> = FEATURES.iter().filter(exists).collect();
    for name in names {
        if !known.iter().any(|(known, ..)| known == name) {
            let all: Vec<_> = known.iter().map(|(name, ..)| *name).collect();
            return Err(Failure::Usage(format!(
                "--features {name}: expected names from {}",
                all.join(", ")
            )));
        }
    }
    let chosen = known
        .into_iter()
        .filter(|(name, ..)| names.is_empty() || names.iter().any(|n| n == name));
    let features = chosen.filter_map(|&(name, off, own)| {
        let on = own.map(str::to_string).or_else(|| on(name))?;
        let off = off.to_string();
        (on != off).then_some(Feature { name, off, on })
    });
    Ok(features.collect())
}

/// Every configuration of these features, each once.
pub fn configurations(features: &[Feature]) -> Vec<Configuration> {
    let all = |kind, name: String, value: &dyn Fn(&Feature) -> String| Configuration {
        name,
        kind,
        settings: features.iter().map(|f| (f.name, value(f))).collect(),
    };
    let on = |f: &Feature| f.on.clone();
    let off = |f: &Feature| f.off.clone();
    let eight_bits = |f: &Feature| f.name == "kv_type" && f.on != "q8";
    let mut list = vec![all(Kind::Off, "everything off".to_string(), &off)];
    for feature in features {
        let only = |value: &str| {
            let value = value.to_string();
            let name = label(feature.name, &value);
            all(Kind::Alone, name, &move |f| {
                if f.name == feature.name {
                    value.clone()
                } else {
                    off(f)
                }
            })
        };
        list.push(only(&feature.on));
        if eight_bits(feature) {
            list.push(only("q8"));
        }
    }
    list.push(all(Kind::On, "everything on".to_string(), &on));
    for feature in features {
        let name = format!("all but {}", feature.name);
        list.push(all(Kind::Without, name, &|f| {
            if f.name == feature.name { off(f) } else { on(f) }
        }));
    }
    if features.iter().any(eight_bits) {
        let name = "all, kv_type q8".to_string();
        list.push(all(Kind::Instead, name, &|f| {
            if eight_bits(f) { "q8".to_string() } else { on(f) }
        }));
    }
    // With two features, one alone is everything but the other.
    let mut once: Vec<Configuration> = Vec::new();
    for configuration in list {
        if !once.iter().any(|c| c.settings == configuration.settings) {
            once.push(configuration);
        }
    }
    once
}

/// A feature with its value, where that says more than that it is on.
fn label(name: &str, value: &str) -> String {
    match value {
        "true" => name.to_string(),
        _ => format!("{name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(name: &str) -> Option<String> {
        let value = match name {
            "cpu_level" => "avx2",
            "threads" => "2",
            "prefill_chunk" => "256",
            "kv_type" => "f16",
            "prefill_budget" => "2",
            _ => "true",
        };
        Some(value.to_string())
    }

    #[test]
    fn every_feature_is_there_alone_and_left_out_and_every_value_is_one_of_its_option() {
        let features = features(&[], on).unwrap();
        let all = configurations(&features);
        assert_eq!(all[0].name, "everything off");
        for feature in &features {
            let different = |a: &Configuration, b: &Configuration| -> Vec<&str> {
                let pairs = a.settings.iter().zip(&b.settings).filter(|(a, b)| a != b);
                pairs.map(|((name, _), _)| *name).collect()
            };
            let whole = all.iter().find(|c| c.kind == Kind::On).unwrap();
            let alone = all.iter().filter(|c| c.kind == Kind::Alone);
            assert!(alone.into_iter().any(|c| different(c, &all[0]) == [feature.name]));
            let without = all.iter().filter(|c| c.kind == Kind::Without);
            assert!(without.into_iter().any(|c| different(c, whole) == [feature.name]));
        }
        for configuration in &all {
            configuration.apply(&EngineOptions::default()).unwrap();
        }
        assert!(all.iter().any(|c| c.name == "kv_type q8"));
        assert!(all.iter().any(|c| c.name == "all, kv_type q8"));
    }

    #[test]
    fn what_is_off_anyway_is_no_feature_and_no_configuration_comes_twice() {
        let one = |name: &str| {
            Some(match name {
                "threads" => "1".to_string(),
                _ => on(name)?,
            })
        };
        let none = features(&["threads".to_string()], one).unwrap();
        assert_eq!(none, []);
        assert_eq!(configurations(&none).len(), 1);
        let two = features(&["threads".to_string(), "batching".to_string()], on).unwrap();
        let names: Vec<_> = configurations(&two).into_iter().map(|c| c.name).collect();
        assert_eq!(
            names,
            ["everything off", "threads 2", "batching", "everything on"]
        );
        let e = features(&["magic".to_string()], on).unwrap_err();
        assert!(matches!(e, Failure::Usage(e) if e.contains("magic") && e.contains("prefix_cache")));
    }

    #[test]
    fn only_options_that_decide_results_excuse_other_results() {
        let all = configurations(&features(&[], on).unwrap());
        let named = |name: &str| all.iter().find(|c| c.name == name).unwrap();
        for same in ["threads 2", "batching", "prefix_cache", "prefill_chunk 256"] {
            assert!(named(same).has_results_of(&all[0]), "{same}");
        }
        for other in [
            "cpu_level avx2",
            "flash_attention",
            "kv_type f16",
            "everything on",
        ] {
            assert!(!named(other).has_results_of(&all[0]), "{other}");
        }
        assert!(named("all but threads").has_results_of(named("everything on")));
    }
}
