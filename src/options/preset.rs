//! Presets: what an engine chooses for the options its creator leaves open.
//!
//! A preset names a kind of machine and use. Together with the size of the model it gives a value to every engine
//! option that is left at `0` or `auto`; an option that was set keeps its value, whatever the order. The values are
//! decided once, when the engine is created ([`EngineOptions::resolve`]), and shown by its summary.
//!
//! Two rules keep presets harmless. Generated tokens depend on the preset only by `kv_type` and, where a completion
//! runs into it, by `context_length`; neither is chosen by the machine, so the same options give the same tokens
//! everywhere, as long as the cache's memory holds one whole context. And what depends on the machine (threads, bytes of cache) is a share of what is free, never a fixed
//! number.

use super::EngineOptions;
use crate::kernel::Precision;
use crate::kernel::attention::Form;

/// How large a model is, by its number of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeClass {
    /// Below 5 billion weights: the models called 1B to 3B, and smaller ones.
    Small,
    /// 5 to 10 billion: those called 7B or 8B.
    Medium,
    /// 10 billion and more: 13B and above.
    Large,
}

impl SizeClass {
    /// Every class, in the order of [`Preset::sizes`].
    pub const ALL: [SizeClass; 3] = [SizeClass::Small, SizeClass::Medium, SizeClass::Large];

    /// The class of a model with this many weights.
    pub fn of(n_parameters: u64) -> Self {
        const BILLION: u64 = 1_000_000_000;
        if n_parameters < 5 * BILLION {
            SizeClass::Small
        } else if n_parameters < 10 * BILLION {
            SizeClass::Medium
        } else {
            SizeClass::Large
        }
    }

    /// The word used in summaries: `small`, `medium`, `large`.
    pub fn name(self) -> &'static str {
        match self {
            SizeClass::Small => "small",
            SizeClass::Medium => "medium",
            SizeClass::Large => "large",
        }
    }
}

/// What a preset gives a model of one size class.
#[derive(Debug, Clone, Copy)]
pub struct Sized {
    /// Sequences computed at the same time.
    pub max_running: usize,
    /// Most tokens of a sequence; the model's own context where that is smaller. `usize::MAX` is no limit.
    pub context_length: usize,
    /// Prompt tokens of a step.
    pub prefill_chunk: usize,
}

/// One preset.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The value of the option `preset`.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Element type of the cache.
    pub kv_type: &'static str,
    /// Most of the memory free at creation that the cache may take, in percent.
    pub kv_percent: u64,
    /// Requests that may wait.
    pub max_queued: usize,
    /// Cores left to others when there are more than two.
    pub spare_cpus: usize,
    /// Values by size class, in the order of [`SizeClass::ALL`].
    pub sizes: [Sized; 3],
}

const fn sized(max_running: usize, context_length: usize, prefill_chunk: usize) -> Sized {
    Sized {
        max_running,
        context_length,
        prefill_chunk,
    }
}

/// The names, as the option `preset` takes them.
pub const PRESET_NAMES: &[&str] = &["auto", "edge", "desktop", "server"];

/// Every preset, in the order of [`PRESET_NAMES`].
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "auto",
        doc: "A process that shares its machine with nobody in particular: all cores, the model's whole context, up to half of the free memory for the cache.",
        kv_type: "f16",
        kv_percent: 50,
        max_queued: 1024,
        spare_cpus: 0,
        sizes: [
            sized(32, usize::MAX, 256),
            sized(16, usize::MAX, 256),
            sized(8, usize::MAX, 128),
        ],
    },
    Preset {
        name: "edge",
        doc: "A small device: one or two sequences, a short context, eight-bit cache (half the memory of f16, and slightly other tokens), small steps.",
        kv_type: "q8",
        kv_percent: 25,
        max_queued: 16,
        spare_cpus: 0,
        sizes: [sized(2, 4096, 64), sized(1, 2048, 32), sized(1, 2048, 32)],
    },
    Preset {
        name: "desktop",
        doc: "One person's machine with other programs on it: a few sequences, one core and most of the memory left alone, steps short enough that an answer keeps flowing while another prompt is read.",
        kv_type: "f16",
        kv_percent: 25,
        max_queued: 64,
        spare_cpus: 1,
        sizes: [sized(8, 16384, 128), sized(4, 8192, 128), sized(2, 8192, 64)],
    },
    Preset {
        name: "server",
        doc: "A machine that does nothing else, for many clients: large batches, long queue, most of the memory for the cache. Throughput comes before the time between two tokens of one client.",
        kv_type: "f16",
        kv_percent: 75,
        max_queued: 4096,
        spare_cpus: 0,
        sizes: [
            sized(128, usize::MAX, 512),
            sized(64, usize::MAX, 512),
            sized(32, usize::MAX, 256),
        ],
    },
];

impl Preset {
    /// The preset of this name; `auto` for a name that is none, which the table's check has refused.
    pub fn named(name: &str) -> &'static Preset {
        PRESETS.iter().find(|p| p.name == name).unwrap_or(&PRESETS[0])
    }

    /// Its values for a size class.
    pub fn sized(&self, class: SizeClass) -> Sized {
        let [small, medium, large] = self.sizes;
        match class {
            SizeClass::Small => small,
            SizeClass::Medium => medium,
            SizeClass::Large => large,
        }
    }

    /// Threads on a machine with this many cores.
    pub fn threads(&self, cpus: usize) -> usize {
        if cpus > 2 {
            cpus - self.spare_cpus
        } else {
            cpus.max(1)
        }
    }

    /// Bytes the cache may take when this much memory is free.
    pub fn kv_share(&self, free: u64) -> u64 {
        free / 100 * self.kv_percent
    }
}

/// What the choice depends on besides the options.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Weights of the model.
    pub n_parameters: u64,
    /// Tokens the model was trained to attend to.
    pub context_length: usize,
    /// Cores this process may use, as far as its CPU quota goes.
    pub cpus: usize,
}

impl EngineOptions {
    /// How these options want weights multiplied.
    pub(crate) fn precision(&self) -> Precision {
        match (self.exact, self.f16_products) {
            (true, _) => Precision::Exact,
            (false, "bf16") => Precision::Half,
            _ => Precision::Native,
        }
    }

    /// How these options want attention computed.
    pub(crate) fn attention(&self) -> Form {
        if self.flash_attention {
            Form::Tiled
        } else {
            Form::TwoPass
        }
    }

    /// These options with a value for everything that was left to the preset. `kv_budget` alone stays 0: its share of
    /// the memory is taken when the cache is made.
    pub fn resolve(&self, subject: &Subject) -> EngineOptions {
        let preset = Preset::named(self.preset);
        let sized = preset.sized(SizeClass::of(subject.n_parameters));
        let or = |set: usize, chosen: usize| if set == 0 { chosen } else { set };
        EngineOptions {
            threads: or(self.threads, preset.threads(subject.cpus)),
            kv_type: match self.kv_type {
                "auto" => preset.kv_type,
                set => set,
            },
            context_length: or(
                self.context_length,
                sized.context_length.min(subject.context_length),
            ),
            max_running: match self.batching {
                true => or(self.max_running, sized.max_running),
                false => 1,
            },
            max_queued: or(self.max_queued, preset.max_queued),
            prefill_chunk: or(self.prefill_chunk, sized.prefill_chunk),
            speculation: match (self.speculation, &self.draft_model) {
                ("auto", Some(_)) => "draft",
                ("auto", None) => "off",
                (set, _) => set,
            },
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Object, OptionSet, find};

    const SMALL: Subject = Subject {
        n_parameters: 2_000_000_000,
        context_length: 131_072,
        cpus: 8,
    };

    #[test]
    fn a_size_class_has_its_borders_between_the_usual_sizes() {
        for (billions, class) in [
            (0.003, SizeClass::Small),
            (3.8, SizeClass::Small),
            (6.7, SizeClass::Medium),
            (9.2, SizeClass::Medium),
            (12.2, SizeClass::Large),
            (405.0, SizeClass::Large),
        ] {
            assert_eq!(SizeClass::of((billions * 1e9) as u64), class, "{billions}");
        }
        assert_eq!(SizeClass::of(u64::MAX), SizeClass::Large);
    }

    #[test]
    fn every_value_of_every_preset_is_one_that_could_be_set() {
        assert_eq!(PRESETS.iter().map(|p| p.name).collect::<Vec<_>>(), PRESET_NAMES);
        for preset in PRESETS {
            for class in SizeClass::ALL {
                let subject = Subject {
                    n_parameters: [1, 7, 13][class as usize] * 1_000_000_000,
                    ..SMALL
                };
                let options = EngineOptions {
                    preset: preset.name,
                    ..EngineOptions::default()
                };
                let resolved = options.resolve(&subject);
                resolved.check().unwrap();
                for (name, value) in [
                    ("max_running", resolved.max_running),
                    ("max_queued", resolved.max_queued),
                    ("prefill_chunk", resolved.prefill_chunk),
                    ("context_length", resolved.context_length),
                    ("threads", resolved.threads),
                ] {
                    assert!(value > 0, "{} {name}", preset.name);
                    find(Object::Engine, name)
                        .unwrap()
                        .parse(&value.to_string())
                        .unwrap();
                }
                assert_ne!(resolved.kv_type, "auto");
                assert!(resolved.context_length <= subject.context_length);
            }
        }
    }

    #[test]
    fn what_was_set_wins_over_the_preset_in_either_order() {
        let set = |pairs: &[(&str, &str)]| {
            let mut options = EngineOptions::default();
            for (name, value) in pairs {
                options.set(name, value).unwrap();
            }
            let r = options.resolve(&SMALL);
            (
                r.max_running,
                r.kv_type,
                r.context_length,
                r.prefill_chunk,
                r.threads,
            )
        };
        let before = set(&[("max_running", "7"), ("kv_type", "f32"), ("preset", "edge")]);
        let after = set(&[("preset", "edge"), ("kv_type", "f32"), ("max_running", "7")]);
        assert_eq!(before, after);
        assert_eq!(before, (7, "f32", 4096, 64, 8));
        assert_eq!(set(&[("preset", "desktop")]).4, 7);
        assert_eq!(
            set(&[("preset", "edge"), ("context_length", "9000"), ("threads", "3")]),
            (2, "q8", 9000, 64, 3)
        );
    }

    #[test]
    fn a_model_with_a_short_context_keeps_it_and_few_cpus_are_all_used() {
        let subject = Subject {
            n_parameters: 1,
            context_length: 256,
            cpus: 2,
        };
        for preset in PRESET_NAMES {
            let options = EngineOptions {
                preset,
                ..EngineOptions::default()
            };
            let resolved = options.resolve(&subject);
            assert_eq!((resolved.context_length, resolved.threads), (256, 2), "{preset}");
        }
    }
}
